"""The rules of kept: the verdict on each attribute at each tap, and one sentence on each tap.

Every threshold stands here, and every verdict says which numbers made it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stages.questions.format import joined
from stages.readers.score import SOURCES_MIN

READER_MIN = 0.95
"""A reader below this score on held-out images measures nothing. Of a function of the pixels, or of another encoder's
reading, it is the score on the sources at the decoder's resolution and with the samples' own noise."""
NOISY = "on sources with the samples' noise"
"""Unit of that score."""
CEILING_MIN = 0.8
"""A decoder that keeps less of the attribute when it is given the truth cannot show that an embedding holds it."""
KEPT_MIN = 0.5
"""KEPT: lower bound of kept / ceiling at least this. DECODER LIMIT: that of the probe is, and kept's upper is not."""
LOST_MAX = 0.2
"""LOST: upper bounds of kept / ceiling and of the probe at most this."""
POWER_MIN = 0.5
"""A probe that finds less than this share of a planted attribute cannot show that something is lost."""
EFFECT_MIN = 0.05
"""The smallest difference of scores that counts. Two are equal where their difference surely is smaller."""

THRESHOLDS = (
    "Kept and the probe are on one scale, and samples know nothing but the embedding. "
    f"CANNOT TELL: the attribute is defined for fewer than {SOURCES_MIN} sources, the reader scores below "
    f"{READER_MIN:g}, kept at the ceiling is below {CEILING_MIN:g}, the probe reads less than the samples show, or the "
    f"bounds of kept / ceiling hold both {LOST_MAX:g} and {KEPT_MIN:g}. "
    f"KEPT: lower bound of kept / ceiling at least {KEPT_MIN:g}; where samples agree with each other more than with "
    f"their source (fixed - kept above {EFFECT_MIN:g}), kept is too high, and the probe must confirm it. "
    f"LOST: upper bounds of kept / ceiling and of the probe at most {LOST_MAX:g}, the probe finds at least "
    f"{POWER_MIN:g} of a planted attribute, fixed - kept is within {EFFECT_MIN:g} of 0, the samples are faithful, and "
    f"kept rose by less than {EFFECT_MIN:g} over the last half of training. "
    f"DECODER LIMIT: lower bound of the probe at least {KEPT_MIN:g}, upper bound of kept / ceiling below it. "
    f"PARTLY: upper bound of kept / ceiling or of the probe above {LOST_MAX:g}. Where both are below and something "
    "else is missing for LOST, it is CANNOT TELL. Bounds are those of 95 % intervals."
)
"""The rules as they are printed."""

Verdict: TypeAlias = Literal["KEPT", "LOST", "DECODER LIMIT", "CANNOT TELL", "PARTLY"]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on. None: not known."""

    sources: int
    """Those of which the attribute is known."""
    low: float
    """Lower bound of kept / ceiling, paired; of kept where no ceiling is known."""
    high: float
    """Upper bound of the same."""
    kept_low: float
    """Lower bound of kept."""
    reader: float
    """Score of the reader on held-out images."""
    ceiling: float | None
    """kept at `oracle:attributes`; None where the truth is not known to any tap."""
    probe: tuple[float, float] | None
    """Bounds of what values drawn from the probe's distribution keep of held-out images."""
    power: float | None
    """Share of a planted attribute that the probe finds."""
    dispersion: tuple[float, float] | None
    """Bounds of fixed - kept, paired; None where there is one sample of each source."""
    nearness: float | None
    """Median of d(sample, source) / d(nearest other image, source), in embeddings; below 1 the samples are faithful."""
    rise_high: float | None
    """Upper bound of kept at the end minus kept at half of training, paired."""


def judge(evidence: Evidence) -> tuple[Verdict, str]:
    """The verdict and the sentence that says why."""
    e = evidence
    name = "kept" if e.ceiling is None else "kept / ceiling"
    bounds = f"{name} is {_two(e.low)} to {_two(e.high)}"
    # Written so that a number that is not one (nothing was defined) never passes.
    if not e.reader >= READER_MIN:
        return "CANNOT TELL", f"The reader scores {_two(e.reader)} on real images, below {READER_MIN:g}."
    if e.ceiling is not None and not e.ceiling >= CEILING_MIN:
        return "CANNOT TELL", f"Given the truth, the decoder keeps {_two(e.ceiling)}, below {CEILING_MIN:g}."
    if e.sources < SOURCES_MIN or not (math.isfinite(e.low) and math.isfinite(e.high)):
        return "CANNOT TELL", f"The attribute is defined for too few sources ({e.sources}), or varies in too few."
    crowded = e.dispersion is not None and e.dispersion[0] > EFFECT_MIN
    probe_low, probe_high = e.probe or (math.nan, math.nan)
    weak = probe_high < e.kept_low
    if e.low >= KEPT_MIN and (probe_low >= KEPT_MIN or not (crowded or (weak and probe_high < KEPT_MIN))):
        return "KEPT", f"{_capital(bounds)}: at least {KEPT_MIN:g}."
    if weak or e.low >= KEPT_MIN:
        return "CANNOT TELL", _contradiction(e, crowded)
    if probe_low >= KEPT_MIN and e.high < KEPT_MIN:
        shown = "do not show it" if e.high <= LOST_MAX else "show less than half of it"
        return "DECODER LIMIT", f"The probe reads {_between(e.probe)}, but {bounds}: the samples {shown}."
    if e.low <= LOST_MAX and e.high >= KEPT_MIN:
        return "CANNOT TELL", f"{_capital(bounds)}: kept or lost, more sources would tell."
    if e.high > LOST_MAX:
        return "PARTLY", f"{_capital(bounds)}: neither kept (from {KEPT_MIN:g}) nor lost (to {LOST_MAX:g})."
    if broken := _broken(e):
        return "CANNOT TELL", f"{_capital(bounds)}, but {'; '.join(broken)}."
    if e.probe is not None and not probe_high <= LOST_MAX:
        return "PARTLY", f"{_capital(bounds)}, but it is not lost: the probe reads {_between(e.probe)}."
    if doubts := _doubts(e):
        return "CANNOT TELL", f"{_capital(bounds)}, but it is not shown to be lost: {'; '.join(doubts)}."
    probe = f"the probe reads only {_between(e.probe)}"
    return "LOST", f"{_capital(bounds)}, {probe}, the samples are faithful, kept no longer rose."


def _contradiction(e: Evidence, crowded: bool) -> str:
    """Why kept and the probe do not go together."""
    probe = "no probe was trained" if e.probe is None else f"the probe reads {_between(e.probe)}"
    found = f"{probe}, and the samples show at least {_two(e.kept_low)}"
    if crowded:
        more = f"The samples of a source agree with each other more than with it, by {_between(e.dispersion)}"
        return f"{more}, so kept is too high: {found}."
    return f"The probe is weaker than the decoder: {found}."


def _broken(e: Evidence) -> list[str]:
    """Instruments that cannot show that an attribute is lost."""
    broken = []
    if e.dispersion is not None and (e.dispersion[0] > EFFECT_MIN or e.dispersion[1] < -EFFECT_MIN):
        more = "more" if e.dispersion[0] > 0 else "less"
        broken.append(
            f"the samples are not calibrated: they agree with each other {more} than with their source "
            f"(fixed - kept is {_between(e.dispersion)})"
        )
    if e.power is not None and not e.power >= POWER_MIN:
        broken.append(f"the probe finds {_two(e.power)} of a planted attribute, below {POWER_MIN:g}")
    return broken


def _doubts(e: Evidence) -> list[str]:
    """Why it is not known whether an attribute is lost that neither the samples nor the probe shows."""
    doubts = []
    if e.probe is None:
        doubts.append("no probe was trained")
    if e.nearness is None:
        doubts.append("the samples were not embedded")
    elif not e.nearness < 1.0:
        doubts.append(f"the samples are {_two(e.nearness)} times as far from their source as the nearest other image")
    if e.rise_high is None:
        doubts.append("kept at half of training is not known")
    elif not e.rise_high < EFFECT_MIN:
        doubts.append(f"kept may still be rising (by up to {_two(e.rise_high)})")
    return doubts


def sentence(tap_id: str, verdicts: Sequence[tuple[str, str]]) -> str:
    """One sentence on a tap from its (attribute, verdict) pairs."""
    by = {verdict: [a for a, found in verdicts if found == verdict] for _, verdict in verdicts}
    clauses = [
        clause.format(joined(by[verdict]))
        for verdict, clause in (
            ("KEPT", "keeps {}"),
            ("PARTLY", "stands between kept and lost on {}"),
            ("LOST", "has let go of {}"),
            ("DECODER LIMIT", "holds {}, which the decoder does not show"),
        )
        if verdict in by
    ]
    if "CANNOT TELL" in by:
        clauses.append(f"{'' if clauses else 'is such that '}no verdict is possible on {joined(by['CANNOT TELL'])}")
    return f"{tap_id} {'; '.join(clauses)}." if clauses else f"{tap_id} was asked about no attribute."


def _between(bounds: tuple[float, float] | None) -> str:
    return "unknown" if bounds is None else f"{_two(bounds[0])} to {_two(bounds[1])}"


def _two(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
