"""The networks under study: a spec names one, `load` makes it a frozen encoder with taps and a fingerprint.

spec (light) -> load -> network or oracle -> `embed`: uint8 images in, one float32 vector per tap out. `format` holds
the files of a trained one, `augment` the random transforms that pretraining and the invariance question draw from.
"""
