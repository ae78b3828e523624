"""The networks under study: a spec names one, `load.load` makes it a frozen encoder with taps, preprocessing and a fingerprint.

spec (light) -> load -> network or oracle -> `embed`: uint8 images in, one float32 vector per tap out. `augment` holds the
random transforms that pretraining and the invariance question both draw from.
"""
