"""The rules of kept: the verdict on each attribute at each tap, and one sentence on each tap.

Every threshold stands here, and every verdict says which numbers made it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stages.questions.format import joined

READER_MIN = 0.95
"""A reader below this score on held-out images measures nothing."""
CEILING_MIN = 0.8
"""A decoder that keeps less of the attribute when it is given the truth cannot show that an embedding holds it."""
KEPT_MIN = 0.5
"""KEPT: lower bound of kept / ceiling at least this. Samples do not show an attribute whose upper bound is below it."""
LOST_MAX = 0.2
"""LOST: upper bound of kept / ceiling at most this."""
PROBE_BLIND = 0.3
"""LOST: the probe reads no more than this."""
PROBE_READS = 0.5
"""DECODER LIMIT: the probe reads at least this."""

THRESHOLDS = (
    f"CANNOT TELL: the reader scores below {READER_MIN:g}, or kept at the ceiling is below {CEILING_MIN:g}. "
    f"KEPT: lower bound of kept / ceiling at least {KEPT_MIN:g}. "
    f"LOST: upper bound at most {LOST_MAX:g}, the probe reads at most {PROBE_BLIND:g}, the samples are faithful, and "
    "kept no longer rose over the last half of training. "
    f"DECODER LIMIT: the probe reads at least {PROBE_READS:g}, but the upper bound of kept / ceiling is below "
    f"{KEPT_MIN:g}. PARTLY: the rest. Bounds are those of 95 % intervals."
)
"""The rules as they are printed."""

Verdict: TypeAlias = Literal["KEPT", "LOST", "DECODER LIMIT", "CANNOT TELL", "PARTLY"]


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on. None: not known."""

    low: float
    """Lower bound of kept / ceiling, paired; of kept where no ceiling is known."""
    high: float
    """Upper bound of the same."""
    reader: float
    """Score of the reader on held-out images."""
    ceiling: float | None
    """kept at `oracle:attributes`; None where the truth is not known to any tap."""
    probe: float | None
    """Score of the probe on held-out images."""
    nearness: float | None
    """Median of d(sample, source) / d(nearest other image, source), in embeddings; below 1 the samples are faithful."""
    rise_low: float | None
    """Lower bound of kept at the end minus kept at half of training, paired."""


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
    if not (math.isfinite(e.low) and math.isfinite(e.high)):
        return "CANNOT TELL", "The attribute is defined for too few sources."
    if e.low >= KEPT_MIN:
        return "KEPT", f"{_capital(bounds)}: at least {KEPT_MIN:g}."
    doubts = _doubts(e)
    if e.high <= LOST_MAX and not doubts:
        return "LOST", (
            f"{_capital(bounds)}, the probe reads only {_two(e.probe)}, the samples are faithful, kept no longer rose."
        )
    if e.probe is not None and e.probe >= PROBE_READS and e.high < KEPT_MIN:
        shown = "do not show it" if e.high <= LOST_MAX else "show less than half of it"
        return "DECODER LIMIT", f"The probe reads {_two(e.probe)}, but {bounds}: the samples {shown}."
    if e.high <= LOST_MAX:
        return "PARTLY", f"{_capital(bounds)}, but it is not shown to be lost: {'; '.join(doubts)}."
    return "PARTLY", f"{_capital(bounds)}: neither kept (from {KEPT_MIN:g}) nor lost (to {LOST_MAX:g})."


def _doubts(e: Evidence) -> list[str]:
    """What speaks against LOST, apart from kept itself."""
    doubts = []
    if e.probe is None:
        doubts.append("no probe was trained")
    elif not e.probe <= PROBE_BLIND:
        doubts.append(f"the probe reads {_two(e.probe)}")
    if e.nearness is None:
        doubts.append("the samples were not embedded")
    elif not e.nearness < 1.0:
        doubts.append(f"the samples are {_two(e.nearness)} times as far from their source as the nearest other image")
    if e.rise_low is None:
        doubts.append("kept at half of training is not known")
    elif not e.rise_low <= 0.0:
        doubts.append(f"kept was still rising (by at least {_two(e.rise_low)})")
    return doubts


def sentence(place: str, verdicts: Sequence[tuple[str, str]]) -> str:
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
        clauses.append(f"{'' if clauses else 'is such that '}nothing can be told of {joined(by['CANNOT TELL'])}")
    return f"{place} {'; '.join(clauses)}." if clauses else f"{place} was asked about no attribute."


def _two(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
