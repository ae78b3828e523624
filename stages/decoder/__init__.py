"""The decoder: one diffusion model that paints images from the embeddings of a group of taps.

`data.py` says what training image number n is; `conditioning.py` how a condition enters the network; `network.py` is
the network and `objective.py` what it is trained to do. `recipe.py` holds the settings of a training, `phases.py` its
two phases, `averages.py` the averaged weights, `evaluation.py` the held-out loss, and `loop.py` runs it. `format.py`
reads and writes weights; `stage.py` is the step and `run.py` its work. The maths stands in `stages.diffusion`.
"""
