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
    return found


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


def unasked(asked: Collection[str]) -> str:
    """The findings that none of the questions `asked` is about, in words; empty where there are none."""
    return ". ".join(text for question, text in UNASKED if question not in asked)


def _range(row: Row) -> str:
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
