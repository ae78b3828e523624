"""What sharing costs a tap: one decoder for four taps against a decoder for each alone.

    python -m tests.benchmarks.taps [IMAGES ...]

On the scenes and encoders of `tests.benchmarks.extension`: first how long a decoder of one tap needs, measured at
`simclr:backbone` with trainings of IMAGES images (24 000, 48 000, 96 000). The longest stands for the plateau of the
mean reciprocal rank, and the shortest within 2 % of it is the training of one tap; longer ones are left out once a rank
is that near to 1, which no plateau exceeds. Then a decoder for each other tap of that length, and one for all four in
1.5 times the CPU time: more of it for the sketch, which is shown four embeddings of a tap for each image where there is
one tap. Prints the mean reciprocal ranks at each tap and the drop, paired by source. It takes about half an hour of one
core. Asserts nothing.
"""

import sys

import torch

from stages.decoder.spec import TrainingSettings
from stages.decoder.stage import Decoder
from tests.artifacts import MemoryArtifact
from tests.benchmarks.extension import SEED, Artifacts, mean, reciprocal_ranks, timed, world

TAPS = ("simclr:backbone", "simclr:projector.0", "simclr:projector", "vicreg:backbone")
IMAGES = (24_000, 48_000, 96_000)
NEAR = 0.98
"""Share of the plateau at which one tap's training is long enough."""
SKETCHED = 4
"""Embeddings shown to the sketch of one tap for each image."""
MORE, MORE_SKETCHED = 1.35, 2.5
"""How many times the images and the embeddings of one tap the four get: some 1.5 times the CPU time, as is printed."""


def trained(taps: tuple[str, ...], images: int, sketched: int, given: Artifacts) -> MemoryArtifact:
    """A decoder with the default settings but for its length."""
    sketch = TrainingSettings(sketch_images=sketched)
    decoder, seconds = timed(Decoder(taps=taps, seed=SEED, num_images=images, training=sketch), given)
    print(
        f"decoder of {', '.join(taps)}, {images:,} images after {sketched:,} embeddings: {seconds:.0f} s of CPU",
        flush=True,
    )
    return decoder


def main(lengths: tuple[int, ...]) -> None:
    """Trains, measures, prints."""
    torch.set_num_threads(1)
    given, encoders = world()
    ladder = {}
    for images in sorted(lengths):
        decoder = trained(TAPS[:1], images, SKETCHED * images, given)
        ladder[images] = reciprocal_ranks(TAPS[0], decoder, given, encoders)
        print(f"  MRR {ladder[images].mean():.4f}", flush=True)
        if ladder[images].mean() >= NEAR:
            break
    plateau = ladder[max(ladder)].mean()
    enough = next(images for images, ranks in ladder.items() if ranks.mean() >= NEAR * plateau)
    group = trained(TAPS, round(MORE * enough), round(MORE_SKETCHED * SKETCHED * enough), given)
    for place in TAPS:
        if place == TAPS[0]:
            alone = ladder[enough]
        else:
            alone = reciprocal_ranks(place, trained((place,), enough, SKETCHED * enough, given), given, encoders)
        together = reciprocal_ranks(place, group, given, encoders)
        drop = mean(alone - together)
        print(
            f"{place}: MRR alone {alone.mean():.3f}, in the group {together.mean():.3f}, "
            f"drop {drop.value:+.3f} [{drop.low:+.3f}, {drop.high:+.3f}] over {len(alone)} sources "
            "(goal: high <= 0.03)",
            flush=True,
        )


if __name__ == "__main__":
    main(tuple(int(images) for images in sys.argv[1:]) or IMAGES)
