"""What sharing costs a tap: one decoder for four taps against a decoder for each alone.

    python -m tests.benchmarks.taps [IMAGES ...]

On the scenes and encoders of `tests.benchmarks.extension`: first how long a decoder of one tap needs, for each of the
four, with trainings of IMAGES images (24 000, 48 000, 96 000). The longest stands for the plateau of a tap's mean
reciprocal rank; longer ones are left out once a rank is within 2 % of 1, which no plateau exceeds. One tap's training
is the shortest that brings every tap within 2 % of its plateau. Then one decoder for all four in 1.5 times the CPU time
of that. Prints the mean reciprocal ranks at each tap and the drop, paired by source. It takes more than an hour of one
core. Asserts nothing.
"""

import sys

import torch

from stages.decoder.stage import Decoder
from stages.readers.score import Floats
from tests.artifacts import MemoryArtifact
from tests.benchmarks.extension import SEED, Artifacts, mean, reciprocal_ranks, timed, world

TAPS = ("simclr:backbone", "simclr:projector.0", "simclr:projector", "vicreg:backbone")
IMAGES = (24_000, 48_000, 96_000)
NEAR = 0.98
"""Share of the plateau at which one tap's training is long enough."""
MORE = 1.35
"""How many times the images of one tap the four get. With the sketch, which is shown as much of each of them as of one
alone, that is some 1.5 times the CPU time, as is printed."""

Ladder = dict[int, Floats]
"""Reciprocal ranks of the sources by the images of a training, shortest first."""


def trained(taps: tuple[str, ...], images: int, given: Artifacts) -> MemoryArtifact:
    """A decoder with the default settings but for its length."""
    decoder, seconds = timed(Decoder(taps=taps, seed=SEED, num_images=images), given)
    print(f"decoder of {', '.join(taps)}, {images:,} images: {seconds:.0f} s of CPU", flush=True)
    return decoder


def alone(tap_id: str, images: int, given: Artifacts, encoders: Artifacts) -> Floats:
    """Reciprocal ranks at a tap that has a decoder to itself."""
    ranks = reciprocal_ranks(tap_id, trained((tap_id,), images, given), given, encoders)
    print(f"  MRR {ranks.mean():.4f}", flush=True)
    return ranks


def climbed(tap_id: str, lengths: tuple[int, ...], given: Artifacts, encoders: Artifacts) -> Ladder:
    """Trainings of a tap alone, until no more can be gained."""
    ladder: Ladder = {}
    for images in sorted(lengths):
        ladder[images] = alone(tap_id, images, given, encoders)
        if ladder[images].mean() >= NEAR:
            break
    return ladder


def enough(ladder: Ladder) -> int:
    """Images of the shortest training near the plateau."""
    plateau = ladder[max(ladder)].mean()
    return next(images for images, ranks in ladder.items() if ranks.mean() >= NEAR * plateau)


def main(lengths: tuple[int, ...]) -> None:
    """Trains, measures, prints."""
    torch.set_num_threads(1)
    given, encoders = world()
    ladders = {tap_id: climbed(tap_id, lengths, given, encoders) for tap_id in TAPS}
    for tap_id, ladder in ladders.items():
        print(f"{tap_id} alone is within 2 % of its plateau after {enough(ladder):,} images", flush=True)
    images = max(enough(ladder) for ladder in ladders.values())
    group = trained(TAPS, round(MORE * images), given)
    for tap_id, ladder in ladders.items():
        one = ladder[images] if images in ladder else alone(tap_id, images, given, encoders)
        together = reciprocal_ranks(tap_id, group, given, encoders)
        drop = mean(one - together)
        print(
            f"{tap_id}: MRR alone {one.mean():.3f}, in the group {together.mean():.3f}, "
            f"drop {drop.value:+.3f} [{drop.low:+.3f}, {drop.high:+.3f}] over {len(one)} sources "
            "(goal: high <= 0.03)",
            flush=True,
        )


if __name__ == "__main__":
    main(tuple(int(images) for images in sys.argv[1:]) or IMAGES)
