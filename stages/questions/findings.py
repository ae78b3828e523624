"""The findings of the paper, judged by rule from the rows of all answers.

Every threshold stands here, and every finding reports the numbers that it was judged by.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stages.questions.format import AUGMENTATION, BOTH, DUPLICATE, Row, joined
from stages.readers.score import SOURCES_MIN

INVARIANT_MAX = 0.1
"""Finding i: an r whose upper bound is at most this is invariance."""
PROJECTOR_SHARE = 0.5
"""Finding ii: r(projector) / r(backbone) must lie below this."""
SPECIFIC_MIN = 0.05
"""Finding ii: the projector must be less moved by the encoder's own augmentations than by other transforms by more than
this, in ln r(projector) / r(backbone), training against no training: a twentieth of r."""
ATTRIBUTES_MIN = 2
"""Finding ii: attributes of which the backbone must keep more than the projector. Those that measure the same count
once."""
CHANGED: Mapping[str, frozenset[str]] = {
    "crop": frozenset({"x", "y", "scale", "centre_x", "centre_y"}),
    "flip": frozenset({"x", "centre_x", "rotation", "orientation"}),
    "brightness": frozenset({"brightness", "mean_brightness"}),
    "contrast": frozenset({"contrast"}),
    "saturation": frozenset({"saturation"}),
    "hue": frozenset({"hue", "background_hue", "mean_hue"}),
    "greyscale": frozenset({"hue", "background_hue", "mean_hue", "saturation"}),
    "blur": frozenset({"sharpness"}),
}
"""By augmentation of pretraining, the attributes that it changes."""
GAP = "gap at "
"""Metric of rows on a supervised encoder against a self-supervised one, before the name of their tap."""
ROBUST_MIN = 0.01
"""Finding iii: a difference between two movements must exceed this, in distances of two random images. With enough
images an interval excludes 0 by any difference, however small."""
SEEDS_MIN = 3
"""Finding iii: pretraining seeds that there must be of each method. One training is no evidence on a method."""
TRAINED = "trained"
"""Metric of rows that hold the pretraining seed of an encoder; the subject is its method, with its label."""
READ_MIN, HELD_MIN = 0.95, 0.5
"""Findings ii and iv: an attribute is judged where its reader scores at least the first on held-out images; finding iv:
and where samples of unedited embeddings keep at least the second of it (lower bound)."""
SELECTIVITY, FINAL_EDIT = "selectivity", "means"
"""Metric of rows on the effect of an edit on its attribute minus that on any other, and the edit of finding iv. The
subject of a row is the edit and the attribute; its verdict is `EDITS`, `NO EDIT` or `CANNOT TELL`."""
EDITS, NO_EDIT, CANNOT_TELL = "EDITS", "NO EDIT", "CANNOT TELL"
EFFECT_MIN = 0.05
"""The smallest difference of scores that counts, however narrow its interval is."""
NUMBERS = ("i", "ii", "iii", "iv")
"""Of the paper's findings."""
UNASKED = (
    ("robustness", "Finding iii, on small attacks, was not asked in this study"),
    ("edits", "Finding iv, on edits, was not asked in this study"),
)

Outcome: TypeAlias = Literal["shown", "not shown", "opposite", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """A finding at one encoder, and whether the rows of a study show it."""

    number: str
    """Of the paper's, one of `NUMBERS`; of any other the name of its question."""
    encoder: str
    claim: str
    outcome: Outcome
    why: str


def findings(rows: Iterable[Row]) -> list[Finding]:
    """Findings i and ii for every encoder whose rows have what they need: r of its own augmentations at both ends."""
    by_name = {(r.metric, r.encoder, r.tap, r.subject): r for r in rows}
    same_as = {r.subject: r.why for r in by_name.values() if r.metric == DUPLICATE}
    found = []
    for encoder in dict.fromkeys(r.encoder for r in by_name.values()):
        backbone = by_name.get(("r", encoder, "backbone", "own"))
        gap = by_name.get(("r difference - untrained", encoder, BOTH, "own"))
        share = by_name.get(("r ratio", encoder, BOTH, "own"))
        specific = by_name.get(("difference in differences", encoder, BOTH, "own"))
        if backbone is None or gap is None or share is None or specific is None:
            continue
        found.append(backbone_moves(backbone, gap))
        changed = augmented(by_name.values(), encoder)
        kept = [
            Compared(r, *(_low(by_name.get(("kept", encoder, end, subject))) for end in ("backbone", "projector")))
            for (metric, at, tap, subject), r in by_name.items()
            if (metric, at, tap) == ("kept difference", encoder, BOTH)
            and subject in changed
            and (reader := by_name.get(("reader", "", "", subject))) is not None
            and reader.value >= READ_MIN
            and r.n >= SOURCES_MIN
        ]
        found.append(projector_rests(share, specific, kept, same_as))
    gaps = [r for r in by_name.values() if r.metric == f"{GAP}backbone"]
    if gaps:
        found.append(attacks_move(gaps, [r for r in by_name.values() if r.metric == TRAINED]))
    edited = [
        r
        for r in by_name.values()
        if (r.metric, r.tap) == (SELECTIVITY, "backbone") and r.subject.startswith(f"{FINAL_EDIT} ")
    ]
    found += [
        edits_work([r for r in edited if r.encoder == encoder]) for encoder in dict.fromkeys(r.encoder for r in edited)
    ]
    return found


def augmented(rows: Iterable[Row], encoder: str) -> frozenset[str]:
    """The attributes that an encoder's own augmentations change; none where these are not known."""
    own = [CHANGED[row.subject] for row in rows if (row.metric, row.encoder) == (AUGMENTATION, encoder)]
    return frozenset().union(*own)


@dataclass(frozen=True)
class Compared:
    """kept of an attribute at both ends of an encoder; NaN where a bound is not known."""

    difference: Row
    """kept(backbone) - kept(projector), paired."""
    backbone: float
    """Lower bound of kept at the backbone."""
    projector: float
    """The same at the projector."""

    @property
    def more(self) -> bool:
        """Whether the backbone keeps more. Samples that are wrong more often than chance know no less than others."""
        return self.difference.low > EFFECT_MIN and self.backbone >= EFFECT_MIN

    @property
    def less(self) -> bool:
        """Whether the projector keeps more."""
        return self.difference.high < -EFFECT_MIN and self.projector >= EFFECT_MIN


def _few(row: Row) -> str:
    return f"{row.n} of {SOURCES_MIN} sources."


def _low(row: Row | None) -> float:
    return math.nan if row is None else row.low


def backbone_moves(backbone: Row, gap: Row) -> Finding:
    """Finding i from r of the encoder's own augmentations at the backbone, and from r(backbone) - r(projector).

    `gap` is how much more that is than of the same network untrained, paired. In an untrained network both ends move,
    and alike.
    """
    claim = (
        "The backbone is not invariant to the augmentations that the encoder was trained with, and training made the "
        "projector more so."
    )
    why = (
        f"r at the backbone is {_range(backbone)}; r(backbone) - r(projector) is {_range(gap)} more than in the same "
        "network untrained."
    )
    outcome: Outcome = "not shown"
    if gap.n < SOURCES_MIN:
        outcome, why = "cannot tell", f"{_few(gap)} {why}"
    elif backbone.low > INVARIANT_MAX and gap.low > EFFECT_MIN:
        outcome = "shown"
    elif backbone.high <= INVARIANT_MAX or gap.high < -EFFECT_MIN:
        outcome = "opposite"
    return Finding("i", backbone.encoder, claim, outcome, why)


def projector_rests(share: Row, specific: Row, kept: Sequence[Compared], same_as: Mapping[str, str] = {}) -> Finding:
    """Finding ii from r(projector) / r(backbone) and kept of augmented attributes that are read well.

    `specific` is a difference in differences: ln r(projector) / r(backbone) of the encoder's own augmentations minus
    that of transforms it was not trained with, minus the same of the untrained network. Above 0 the projector rests,
    but not for its training: no opposite. `same_as` has for an attribute that measures the same as an earlier one the
    name of that.
    """
    claim = "The projector is nearly invariant to them, and keeps less of what they change."
    more = _once([found.difference.subject for found in kept if found.more], same_as)
    less = _once([found.difference.subject for found in kept if found.less], same_as)
    asked = _once([found.difference.subject for found in kept], same_as)
    needed = min(ATTRIBUTES_MIN, max(1, len(asked)))
    why = (
        f"r(projector) / r(backbone) is {_range(share)}; its logarithm is {_range(specific)} more than for other "
        f"transforms, compared with the same network untrained; of {len(asked)} attributes that they change and that "
        f"are read well (from {READ_MIN:g}) the backbone keeps more of {joined(more) or 'none'} and less of "
        f"{joined(less) or 'none'} (by {EFFECT_MIN:g} or more)."
    )
    outcome: Outcome = "not shown"
    if share.n < SOURCES_MIN:
        outcome, why = "cannot tell", f"{_few(share)} {why}"
    elif share.high < PROJECTOR_SHARE and specific.high < -SPECIFIC_MIN and len(more) >= needed and not less:
        outcome = "shown"
    elif share.low > 1.0 or (len(less) >= needed and not more):
        outcome = "opposite"
    return Finding("ii", share.encoder, claim, outcome, why)


def _once(subjects: Sequence[str], same_as: Mapping[str, str]) -> list[str]:
    """The subjects, of those that measure the same the first alone."""
    first = {same_as.get(subject, subject): subject for subject in reversed(subjects)}
    return [subject for subject in subjects if subject in first.values()]


def attacks_move(gaps: Sequence[Row], trained: Sequence[Row]) -> Finding:
    """Finding iii from movement(supervised) - movement(self-supervised) under PGD, paired, at the backbone.

    Of each pair of encoders that at the middle eps counts. Rows have the supervised encoder as theirs, and as subject
    the self-supervised one and the eps. `trained` has the method and the pretraining seed of every encoder.
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
    above = sum(gap.low > ROBUST_MIN for _, gap in judged.values())
    below = sum(gap.high < -ROBUST_MIN for _, gap in judged.values())
    why = f"Of {len(judged)} pairs {above} are above {ROBUST_MIN:g} and {below} below -{ROBUST_MIN:g}. "
    why += f"Movement under PGD at eps {eps} / 255: " + "; ".join(
        f"{k} {_range(gap)}" for k, (_, gap) in judged.items()
    )
    seeds = _seeds(trained, {encoder for pair in pairs for encoder in pair})
    outcome: Outcome = "not shown"
    if seeds < SEEDS_MIN:
        outcome = "cannot tell"
        why = f"{seeds} of {SEEDS_MIN} seeds of each method. {why}"
    elif (few := next((gap for _, gap in judged.values() if gap.n < SOURCES_MIN), None)) is not None:
        outcome, why = "cannot tell", f"{_few(few)} {why}"
    elif above == len(judged):
        outcome = "shown"
    elif below == len(judged):
        outcome = "opposite"
    encoders = joined(list(dict.fromkeys(supervised for supervised, _ in pairs)))
    claim = "Small attacks move the backbone of a self-supervised encoder less than that of a supervised one."
    return Finding("iii", encoders, claim, outcome, f"{why}.")


def _seeds(trained: Sequence[Row], encoders: Collection[str]) -> int:
    """Pretraining seeds of the method that has fewest of them."""
    by_method: dict[str, set[float]] = {}
    for row in trained:
        if row.encoder in encoders:
            by_method.setdefault(row.subject, set()).add(row.value)
    return min((len(seeds) for seeds in by_method.values()), default=0)


@dataclass(frozen=True)
class EditEvidence:
    """What the verdict on an edit of one attribute rests on; NaN where it is not known."""

    reader: float
    """Score of the attribute's reader on held-out images."""
    held: float
    """Lower bound of what samples of unedited embeddings keep of the attribute."""
    selectivity: float
    """Lower bound of effect on the attribute - largest effect on another, simultaneous over attributes."""
    over_random: float
    """Lower bound of effect on the attribute - that of random directions, simultaneous over attributes."""
    step: float
    """Smallest lower bound of what a larger strength does more than a smaller one."""
    sources: int
    """Those that were edited."""


def edit_works(found: EditEvidence) -> tuple[str, str]:
    """The verdict on an edit of one attribute, and why."""
    if not found.reader >= READ_MIN:
        return CANNOT_TELL, f"its reader scores {found.reader:.2f} of {READ_MIN:g}"
    if found.sources < SOURCES_MIN:
        return CANNOT_TELL, f"{found.sources} of {SOURCES_MIN} sources were edited"
    if not found.held >= HELD_MIN:
        return CANNOT_TELL, f"unedited samples keep {found.held:.2f} of it at least, of {HELD_MIN:g}"
    if math.isnan(found.selectivity):
        return CANNOT_TELL, "no other attribute is read well enough to compare with"
    if not found.selectivity > EFFECT_MIN:
        return NO_EDIT, f"its effect exceeds that on others by {found.selectivity:.2f} at least"
    if not found.over_random > EFFECT_MIN:
        return NO_EDIT, f"its effect exceeds that of random directions by {found.over_random:.2f} at least"
    if not found.step > -EFFECT_MIN:
        return NO_EDIT, f"a longer step may have less effect, by {-found.step:.2f}"
    return EDITS, f"its effect exceeds that on others by {found.selectivity:.2f} at least"


def edits_work(rows: Sequence[Row]) -> Finding:
    """Finding iv at one encoder, from the verdicts on edits by means at the backbone, an attribute each."""
    names = {row: row.subject.partition(" ")[2] for row in rows}
    judged = [row for row in rows if row.verdict != CANNOT_TELL]
    works = [names[row] for row in judged if row.verdict == EDITS]
    needed = min(ATTRIBUTES_MIN, max(1, len(judged)))
    outcome: Outcome = "not shown"
    if not judged:
        outcome = "cannot tell"
    elif len(works) >= needed:
        outcome = "shown"
    numbers = "; ".join(f"{names[row]} {_range(row)}" for row in judged)
    unjudged = "; ".join(f"{names[row]}: {row.why}" for row in rows if row not in judged)
    why = (
        (f"Effect on the attribute - largest effect on another: {numbers}. " if judged else "")
        + f"Edits change {joined(works) or 'none'} alone, of {len(judged)} attributes that were judged; {needed} "
        + ("is needed" if needed == 1 else "are needed")
        + (f". Not judged: {unjudged}." if unjudged else ".")
    )
    claim = "Steps along directions of the backbone's embedding change one attribute and leave the others."
    return Finding("iv", rows[0].encoder, claim, outcome, why)


def unasked(asked: Collection[str]) -> str:
    """The findings that none of the questions `asked` is about, in words; empty where there are none."""
    return ". ".join(text for question, text in UNASKED if question not in asked)


def _range(row: Row) -> str:
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"
