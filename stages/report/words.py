"""How each number was measured, in plain words; the thresholds are those that the rules use."""

from collections.abc import Collection

from stages.questions import verdicts
from stages.readers import score

INTERVALS = (
    "Intervals",
    f"{100 * score.LEVEL:g} %, from {score.DRAWS} resamples of the sources with a fixed seed. A comparison is the "
    "interval of the paired difference over the same sources, never two intervals side by side.",
)

KEPT = (
    (
        "Source, sample",
        "A source is a held-out image; neither encoder, decoder, reader nor probe was trained on it. A sample is an "
        "image that the decoder painted from the source's vector at a tap, without guidance.",
    ),
    (
        "Kept",
        "1 − d(samples, their source) / d(samples, other sources), where d compares an attribute as it is read from "
        "the sample with the source's true one: squared error for numbers, 1 − cos for angles and hues, 0 or 1 "
        "for classes. 0: no better than another source's samples. 1: a match.",
    ),
    ("Fixed", "The same between the samples of one source: 1 where all show the same value, right or wrong."),
    (
        "Reader",
        "Reads an attribute from pixels: a function of the pixels, or a small network trained on real images only. Its "
        f"score on held-out real images stands beside each attribute; below {verdicts.READER_MIN:g} nothing is said.",
    ),
    (
        "Probe",
        "A small network that reads the attribute from the vector itself, scored on held-out images on the scale of "
        "kept. What a probe reads and the samples do not show is the decoder's failure, not the encoder's.",
    ),
    (
        "Ceiling",
        "Kept where the decoder is given the true attributes (oracle:attributes): the most that this decoder can show. "
        "It exists only where the truth is known.",
    ),
    ("Floor", "Kept with the samples handed to other sources: what chance gives."),
    (
        "Twins",
        "Of the samples of a source, the nearer half by the distance of their vectors to the source's; of those, the "
        "two that differ most in pixels.",
    ),
)
FAITHFULNESS = (
    (
        "Rank and MRR",
        "Each sample is embedded again and all held-out images are sorted by their distance to it; the rank is where "
        "its source comes, the source counted in. MRR is the mean of 1 / rank.",
    ),
    (
        "Controls of the rank",
        "A light crop of the source (as good as it gets), the nearest other real image, a random image, and the "
        "samples of another source (as bad as it gets).",
    ),
    (
        "Distance",
        "Euclidean, between vectors standardised as the decoder sees them: (x − mean) / max(std, 0.05 × RMS of std), "
        "from training images. The unit is the mean distance of two random images.",
    ),
    (
        "Nearness",
        "Distance of the samples to their source over that of the nearest other real image: the median over sources. "
        "Below 1 the samples are faithful.",
    ),
)
INVARIANCE = (
    (
        "r",
        "Mean distance between the vectors of an image and of the transformed image, over the mean distance between "
        "two random images.",
    ),
    (
        "Findings",
        "i is shown where the interval of r at the backbone, over the encoder's own training augmentations, lies above "
        f"{verdicts.INVARIANT_MAX:g} and that of r(backbone) − r(projector) above 0. ii is shown where the interval of "
        f"r(projector) / r(backbone) lies below {verdicts.PROJECTOR_SHARE:g} and the backbone keeps more than the "
        f"projector of {verdicts.ATTRIBUTES_MIN} or more augmented attributes and less of none. The opposite is "
        "reported as the opposite.",
    ),
)


def measures(asked: Collection[str], rules: str) -> list[tuple[str, str]]:
    """Term and meaning of every number that the questions `asked` put on the page; `rules`: those of the verdicts."""
    parts = (("kept", (*KEPT, ("Verdicts", rules))), ("faithfulness", FAITHFULNESS), ("invariance", INVARIANCE))
    return [entry for question, entries in parts if question in asked for entry in entries] + [INTERVALS]
