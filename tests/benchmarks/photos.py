"""How well published encoders group photographs by class, before any decoder. Prints; asserts nothing.

    make photos
    python -m tests.benchmarks.photos

The encoders of the recipe `photos`, and another, see nine cut-outs of each class on white, at its size. Printed
is the share of cut-outs whose nearest neighbour, by cosine of embeddings around their mean, is of their class.
"""

import time

import numpy as np

from tests.photographs import MOBILENET, cutouts, neighbours_agree, recipe
from tests.stages.encoders.files import encoder, imported


def main() -> None:
    """Prints a line for each tap."""
    images, labels = cutouts(each=9)
    print(f"{len(images)} cut-outs of {len(np.unique(labels))} classes")
    encoders = {name: fields for name, fields in recipe()["encoders"].items() if name != "oracle"}
    for name, fields in (encoders | {"mobilenet": MOBILENET}).items():
        network, began = encoder(imported(**fields)), time.process_time()
        embedded = network.embed(images)
        milliseconds = 1000 * (time.process_time() - began) / len(images)
        for tap, vectors in embedded.items():
            share = neighbours_agree(vectors, labels)
            print(f"{name}:{tap}  {share:.2f}  {milliseconds:.0f} ms of processor time an image", flush=True)


if __name__ == "__main__":
    main()
