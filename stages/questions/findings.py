"""The findings of the paper, judged by rule from the rows of all answers.

Every threshold stands here, and every finding reports the numbers that it was judged by.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.questions.format import BOTH, Row, joined

INVARIANT_MAX = 0.1
"""Finding i: an r whose upper bound is at most this is invariance."""
PROJECTOR_SHARE = 0.5
"""Finding ii: r(projector) / r(backbone) must lie below this."""
ATTRIBUTES_MIN = 2
"""Finding ii: attributes of which the backbone must keep more than the projector."""
AUGMENTED = frozenset(
    {"x", "y", "scale", "centre_x", "centre_y"}
    | {"hue", "background_hue", "brightness", "mean_hue", "saturation", "mean_brightness"}
)
"""Attributes that resized crops, flips and colour jitter change."""
GAP = "gap at "
"""Metric of rows on a supervised encoder against a self-supervised one, before the name of their tap."""
ROBUST_MIN = 0.01
"""Finding iii: a difference between two movements must exceed this, in distances of two random images. With enough
images an interval excludes 0 by any difference, however small."""
EFFECT_MIN = 0.05
"""The smallest difference of scores that counts, however narrow its interval is."""
UNASKED = (
    ("robustness", "Finding iii, on small attacks, was not asked in this study"),
    ("manipulation", "Finding iv, on edits, was not asked in this study"),
)


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings at one encoder, and whether these rows show it."""

    number: str
    encoder: str
    claim: str
    outcome: Literal["shown", "not shown", "opposite"]
    why: str


def findings(rows: Iterable[Row]) -> list[Finding]:
    """Findings i and ii for every encoder whose rows have what they need: r of its own augmentations at both ends."""
    by_name = {(r.metric, r.encoder, r.tap, r.subject): r for r in rows}
    found = []
    for encoder in dict.fromkeys(r.encoder for r in by_name.values()):
        backbone = by_name.get(("r", encoder, "backbone", "own"))
        gap = by_name.get(("r difference", encoder, BOTH, "own"))
        share = by_name.get(("r ratio", encoder, BOTH, "own"))
        if backbone is None or gap is None or share is None:
            continue
        found.append(backbone_moves(backbone, gap))
        augmented = [
            r
            for (metric, at, tap, subject), r in by_name.items()
            if (metric, at, tap) == ("kept difference", encoder, BOTH) and subject in AUGMENTED
        ]
        found.append(projector_rests(share, augmented))
    gaps = [r for r in by_name.values() if r.metric == f"{GAP}backbone"]
    return [*found, attacks_move(gaps)] if gaps else found


def backbone_moves(backbone: Row, gap: Row) -> Finding:
    """Finding i from r of the encoder's own augmentations at the backbone, and r(backbone) - r(projector), paired."""
    claim = "The backbone is not invariant to the augmentations that the encoder was trained with."
    why = f"r at the backbone is {_range(backbone)}, r(backbone) - r(projector) {_range(gap)}."
    outcome: Literal["shown", "not shown", "opposite"] = "not shown"
    if backbone.low > INVARIANT_MAX and gap.low > EFFECT_MIN:
        outcome = "shown"
    elif backbone.high <= INVARIANT_MAX or gap.high < -EFFECT_MIN:
        outcome = "opposite"
    return Finding("i", backbone.encoder, claim, outcome, why)


def projector_rests(share: Row, kept: Sequence[Row]) -> Finding:
    """Finding ii from r(projector) / r(backbone) and kept(backbone) - kept(projector) of augmented attributes."""
    claim = "The projector is nearly invariant to them, and keeps less of what they change."
    more = [r.subject for r in kept if r.low > EFFECT_MIN]
    less = [r.subject for r in kept if r.high < -EFFECT_MIN]
    needed = min(ATTRIBUTES_MIN, max(1, len(kept)))
    why = (
        f"r(projector) / r(backbone) is {_range(share)}; of {len(kept)} augmented attributes the backbone keeps more "
        f"of {joined(more) or 'none'} and less of {joined(less) or 'none'} (by {EFFECT_MIN:g} or more)."
    )
    outcome: Literal["shown", "not shown", "opposite"] = "not shown"
    if share.high < PROJECTOR_SHARE and len(more) >= needed and not less:
        outcome = "shown"
    elif share.low > 1.0 or (len(less) >= needed and not more):
        outcome = "opposite"
    return Finding("ii", share.encoder, claim, outcome, why)


def attacks_move(gaps: Sequence[Row]) -> Finding:
    """Finding iii from movement(supervised) - movement(self-supervised) under PGD, paired, at the backbone.

    Of each pair of encoders that at the middle eps counts. Rows have the supervised encoder as theirs, and as subject
    the self-supervised one and the eps.
    """
    pairs: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for gap in gaps:
        other, _, eps = gap.subject.rpartition(" ")
        pairs.setdefault((gap.encoder, other), []).append((float(eps), gap))
    judged = {
        f"{supervised} - {other}": sorted(by_eps, key=lambda entry: entry[0])[len(by_eps) // 2]
        for (supervised, other), by_eps in pairs.items()
    }
    eps = joined(list(dict.fromkeys(f"{eps:g}" for eps, _ in judged.values())))
    why = f"Movement under PGD at eps {eps} / 255: " + "; ".join(f"{k} {_range(gap)}" for k, (_, gap) in judged.items())
    outcome: Literal["shown", "not shown", "opposite"] = "not shown"
    if all(gap.low > ROBUST_MIN for _, gap in judged.values()):
        outcome = "shown"
    elif all(gap.high < -ROBUST_MIN for _, gap in judged.values()):
        outcome = "opposite"
    encoders = joined(list(dict.fromkeys(supervised for supervised, _ in pairs)))
    claim = "Small attacks move the backbone of a self-supervised encoder less than that of a supervised one."
    return Finding("iii", encoders, claim, outcome, f"{why}.")


def unasked(asked: Collection[str]) -> str:
    """The findings that none of the questions `asked` is about, in words; empty where there are none."""
    return ". ".join(text for question, text in UNASKED if question not in asked)


def _range(row: Row) -> str:
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
