"""The rules of versus: what the numbers of two taps, A and B, are called. Every threshold stands here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stages.questions.findings import Outcome
from stages.readers.score import SOURCES_MIN

MORE, LESS, EQUAL, CANNOT_TELL = "B KNOWS MORE", "A KNOWS MORE", "EQUAL", "CANNOT TELL"
SEPARATED, NOT_SEPARATED = "SEPARATED", "NOT SEPARATED"
FINER, COARSER, ALIKE = "B FINER", "A FINER", "ALIKE"

EFFECT_MIN = 0.05
"""The smallest difference that counts, of scores, spreads and imbalances."""
READER_MIN = 0.95
"""A reader below this score measures nothing."""
CEILING_MIN, KEPT_MIN = 0.8, 0.5
"""A decoder can show an attribute where it keeps the first of it, given the truth, or the second at both taps."""
CHANCE_MAX = 0.1
"""The imbalance of images that do not belong together is 1; an interval that lies farther from it is a fault."""

RULE = (
    f"{MORE}: the interval of kept(B) − kept(A), which holds for all attributes at once, lies at {EFFECT_MIN:g} or "
    f"above, and so does that of kept(B). {LESS}: the same with A and B exchanged. {EQUAL}: it lies between "
    f"−{EFFECT_MIN:g} and {EFFECT_MIN:g}, and the decoder can show the attribute: given the truth it keeps at least "
    f"{CEILING_MIN:g}, or at least {KEPT_MIN:g} at both taps. {CANNOT_TELL}: all else, and where the reader scores "
    f"below {READER_MIN:g}, where the attribute is known of fewer than {SOURCES_MIN} sources, where samples of other "
    f"sources differ as much, where a linear probe finds a difference of {EFFECT_MIN:g} that says otherwise, or where "
    "samples of the tap that keeps more agree with each other more than with their source (fixed − kept above "
    f"{EFFECT_MIN:g}) and the probe does not find the difference too."
)
TWINS_RULE = (
    f"{SEPARATED}: samples of A's vector spread more in B, in distances of two random images, than in A, by "
    f"{EFFECT_MIN:g} or more, and more than samples of B's own vector do in B, by as much. {NOT_SEPARATED}: one of the "
    f"two is less than that. {CANNOT_TELL}: all else, and where samples of A are no nearer to their source in A than "
    "the nearest other "
    "image is, so that they are no twins."
)
FINER_RULE = (
    "Information imbalance (Glielmo et al. 2022, arXiv 2104.15079): of the image that is nearest at one tap the rank "
    "among neighbours at the other, over half the number of images. 0: one tap predicts the other; 1: it says nothing "
    f"on it. {FINER}: A predicts B worse than B predicts A, by {EFFECT_MIN:g} or more. {COARSER}: better. {ALIKE}: the "
    f"interval lies between. {CANNOT_TELL}: all else, and where the interval of images that do not belong together "
    f"lies outside of 1 ± {CHANCE_MAX:g}."
)

Bounds: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """What the verdict on an attribute rests on; bounds are of 95 % intervals, None is not known."""

    sources: int
    """Those of which the attribute is known."""
    difference: Bounds
    """Of kept(B) - kept(A), paired, holding for all attributes at once."""
    shuffled: Bounds
    """The same where each source is given the samples of another, at both taps."""
    probe: Bounds | None
    """Of R2(B) - R2(A) of a linear probe, paired, holding for all attributes at once."""
    reader: float
    """Score of the reader."""
    ceiling: float | None
    """kept where the decoder is given the truth."""
    kept: tuple[float, float]
    """Lower bounds of kept at A and at B."""
    dispersion: tuple[float, float]
    """Lower bounds of fixed - kept at A and at B."""


def judge(e: Evidence) -> tuple[str, str]:
    """The verdict on an attribute, and the sentence that says why."""
    low, high = e.difference
    # Written so that a number that is not one (nothing was defined) never passes.
    if not e.reader >= READER_MIN:
        return CANNOT_TELL, f"The reader scores {e.reader:.2f}, below {READER_MIN:g}."
    if e.sources < SOURCES_MIN or not (math.isfinite(low) and math.isfinite(high)):
        return CANNOT_TELL, f"The attribute is defined for too few sources ({e.sources}), or varies in too few."
    if not (e.shuffled[0] < EFFECT_MIN and e.shuffled[1] > -EFFECT_MIN):
        return CANNOT_TELL, f"Samples of other sources differ too, by {_between(e.shuffled)}."
    found = f"kept(B) − kept(A) is {_between(e.difference)}"
    probe = f"the linear probe's difference is {'unknown' if e.probe is None else _between(e.probe)}"
    if low >= EFFECT_MIN or high <= -EFFECT_MIN:
        more = low >= EFFECT_MIN
        if not e.kept[more] >= EFFECT_MIN:
            return CANNOT_TELL, (
                f"{_capital(found)}, but the larger of them may be as low as {e.kept[more]:.2f}: samples that "
                "are wrong more often than chance know no less than others."
            )
        # The probe as seen from the tap that keeps more.
        least, most = (math.nan, math.nan) if e.probe is None else e.probe if more else (-e.probe[1], -e.probe[0])
        if most <= -EFFECT_MIN:
            return CANNOT_TELL, f"{_capital(found)}, but {probe}."
        if e.dispersion[more] > EFFECT_MIN and not least >= EFFECT_MIN:
            return CANNOT_TELL, (
                f"{_capital(found)}, but samples of the tap that keeps more agree with each other more than with their "
                f"source, and {probe}."
            )
        return MORE if more else LESS, f"{_capital(found)}; {probe}."
    if low > -EFFECT_MIN and high < EFFECT_MIN:
        if not ((e.ceiling is not None and e.ceiling >= CEILING_MIN) or min(e.kept) >= KEPT_MIN):
            return CANNOT_TELL, f"{_capital(found)}, but the decoder is not known to show the attribute."
        if e.probe is not None and (e.probe[0] >= EFFECT_MIN or e.probe[1] <= -EFFECT_MIN):
            return CANNOT_TELL, f"{_capital(found)}, but {probe}."
        return EQUAL, f"{_capital(found)}."
    return CANNOT_TELL, f"{_capital(found)}: it may be less than {EFFECT_MIN:g} and more."


def twins(nearness: float | None, here: Bounds, control: Bounds) -> tuple[str, str]:
    """Whether B separates the samples of A, and why.

    `nearness`: median of d(sample, source) / d(nearest other image, source) in A. `here`: bounds of the spread in B
    minus that in A; `control`: minus that of samples of B's own vector in B.
    """
    if nearness is None or not nearness < 1.0:
        far = "unknown" if nearness is None else f"{nearness:.2f}"
        return CANNOT_TELL, f"No twins: distance of the samples over that of the nearest other image is {far}."
    why = f"Spread in B, over that in A: {_between(here)} more; over that of B's own samples: {_between(control)} more."
    if here[0] >= EFFECT_MIN and control[0] >= EFFECT_MIN:
        return SEPARATED, why
    return (NOT_SEPARATED if here[1] < EFFECT_MIN or control[1] < EFFECT_MIN else CANNOT_TELL), why


def finer(difference: Bounds, chance: Bounds) -> str:
    """Which tap is finer, from the bounds of imbalance(A to B) - imbalance(B to A), and of a control that is 1."""
    if not (chance[0] <= 1.0 + CHANCE_MAX and chance[1] >= 1.0 - CHANCE_MAX):
        return CANNOT_TELL
    low, high = difference
    if low >= EFFECT_MIN:
        return FINER
    if high <= -EFFECT_MIN:
        return COARSER
    return ALIKE if low > -EFFECT_MIN and high < EFFECT_MIN else CANNOT_TELL


def outcome(verdicts: Sequence[str], wanted: str) -> Outcome:
    """Whether the verdicts on all attributes show that one tap knows more (`wanted`) of any of them."""
    if wanted in verdicts:
        return "shown"
    return "not shown" if any(verdict != CANNOT_TELL for verdict in verdicts) else "cannot tell"


def _between(bounds: Bounds) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}".replace("-", "−")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
