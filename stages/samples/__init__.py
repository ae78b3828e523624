"""Samples: paints every condition of a question with a decoder, several times, on matched noise.

`stage.py` is the step, `paint.py` its work, `format.py` the layout: `images.zarr` and `samples.parquet`, which
`stages.images.sets.open_images` reads as a set of images.
"""
