"""Readers and probes: what is measurable about an image, and what an embedding says of it.

`pixel` holds attributes that are functions of the pixels, `network` the small network that reads the dataset's own
attributes from pixels, `probe` the small network that reads any of them from an embedding. Both are trained on train
images only and scored on held-out ones; `format` is how the trained readers are stored and loaded.
"""
