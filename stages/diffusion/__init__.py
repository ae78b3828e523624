"""Diffusion mathematics, and nothing else: no files, no networks, no settings; imports no other room.

Everything is a denoiser `D(x, sigma, h)`: the expectation of an image, given that image plus noise of level `sigma` and
a condition. `edm.py` turns a raw network into one and gives its training loss; `samplers.py` walks a denoiser from
noise to images; `noise.py` makes the noise itself, which depends on what is painted and never on how it was batched.
`discrete.py` is diffusion as the published RCDM knows it; `denoisers.py` wraps its networks, and mixes denoisers.
"""
