"""Trains a small encoder where none is given: train images -> augmented pairs -> network with projector -> its quality.

`stage` declares the step, `run` does it, `loop` is the training for all `methods`, on one rank or many (`ranks`),
`quality` scores the result on held-out images. The files it writes are those of `stages.encoders.format`.
"""
