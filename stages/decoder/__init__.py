"""The decoder: one diffusion model that paints images from the embeddings of a group of taps.

`data.py` says what training image number n is; `conditioning.py` how a condition enters the network;
`network.py` is the network, `loop.py` trains it, `format.py` reads and writes its weights; `stage.py` is the step and
`run.py` its work. The maths stands in `stages.diffusion`.
"""
