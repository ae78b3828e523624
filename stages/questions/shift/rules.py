"""The rules of shift: when what is kept of seen combinations is kept of unseen ones. Every threshold stands here."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from stages.questions.findings import Outcome
from stages.readers.score import SOURCES_MIN

HOLDS, EMBEDDING, DECODER, FAILS = "HOLDS", "EMBEDDING FAILS", "DECODER FAILS", "FAILS"
CANNOT_TELL = "CANNOT TELL"

EFFECT_MIN = 0.05
"""The smallest difference that counts, of kept, of R2 and of distances of two random images alike."""
READER_MIN = 0.9
"""What an attribute's reader must keep of real images, on the scale of kept, of both groups."""
HELD_MIN = 0.2
"""What samples must keep of an attribute where combinations are seen (lower bound)."""

RULE = (
    f"{HOLDS}: samples keep less of unseen combinations than of seen ones by less than {EFFECT_MIN:g} (upper bound). "
    f"{EMBEDDING}: they keep less by {EFFECT_MIN:g} or more (lower bound), and so does a linear probe, fitted to train "
    f"images. {DECODER}: they do, and the probe loses less than {EFFECT_MIN:g}. {FAILS}: they do, and the probe does "
    f"not decide. {CANNOT_TELL}: all else; attributes of which samples of seen combinations keep less than "
    f"{HELD_MIN:g}; those whose reader keeps less than {READER_MIN:g} of real images of either group, or less of "
    f"unseen ones by {EFFECT_MIN:g}; those of which two random halves of the seen combinations differ by "
    f"{EFFECT_MIN:g} or more (lower bound); and groups of fewer than {SOURCES_MIN} sources."
)
DISTANCE_RULE = (
    f"{HOLDS}: embeddings of samples of unseen combinations lie farther from their source than those of seen ones by "
    f"less than {EFFECT_MIN:g} of the distance of two random images (upper bound). {FAILS}: by {EFFECT_MIN:g} or more "
    f"(lower bound). {CANNOT_TELL}: all else; where samples of seen combinations do not lie nearer to their own source "
    f"than to another by {EFFECT_MIN:g} or more (lower bound), so that there is nothing that could hold; where two "
    f"random halves of the seen combinations differ as much; and groups of fewer than {SOURCES_MIN} sources."
)
WALK_RULE = (
    f"{HOLDS}: samples of vectors halfway between two neighbours lie farther from their vector than samples of images "
    f"do by less than {EFFECT_MIN:g} of the distance of two random images (upper bound). {FAILS}: by {EFFECT_MIN:g} or "
    f"more (lower bound). {CANNOT_TELL}: all else, and where samples of vectors halfway between images of different "
    "walks, the control, do not lie farther still: then the measure may see nothing."
)

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """What the verdict on an attribute rests on: bounds of intervals, and values; NaN where a number is undefined."""

    gap: Bounds
    """kept of seen combinations - kept of unseen ones."""
    probe: Bounds | None
    """The same of R2 of the linear probe; None where it reads nothing."""
    control: Bounds
    """kept of one random half of the seen combinations - that of the other."""
    reader: tuple[float, float]
    """What the reader keeps of real images, of seen and of unseen combinations."""
    held: float
    """Lower bound of kept of seen combinations."""
    sources: int
    """Of the smaller group."""


def judge(found: Evidence) -> tuple[str, str]:
    """The verdict on an attribute and the sentence that says why."""
    if found.sources < SOURCES_MIN:
        return CANNOT_TELL, f"{found.sources} of {SOURCES_MIN} sources of a group have a value."
    if not all(map(math.isfinite, (*found.gap, *found.control, *found.reader, found.held))):
        return CANNOT_TELL, "A number is undefined."
    seen, unseen = found.reader
    if min(seen, unseen) < READER_MIN or seen - unseen >= EFFECT_MIN:
        return (
            CANNOT_TELL,
            f"Its reader keeps {seen:.2f} of real images of seen combinations and {unseen:.2f} of unseen.",
        )
    if _differs(found.control):
        return CANNOT_TELL, f"Two halves of the seen combinations differ by {_range(found.control)}."
    if found.held < HELD_MIN:
        return CANNOT_TELL, f"Samples of seen combinations keep {found.held:.2f} at least, of {HELD_MIN:g}."
    why = f"Of unseen combinations {_range(found.gap)} less is kept"
    if found.gap[1] < EFFECT_MIN:
        return HOLDS, f"{why}."
    if found.gap[0] < EFFECT_MIN:
        return CANNOT_TELL, f"{why}; more sources would tell."
    if found.probe is None or not all(map(math.isfinite, found.probe)):
        return FAILS, f"{why}; a linear probe reads nothing of it."
    why += f"; a linear probe reads {_range(found.probe)} less."
    if found.probe[0] >= EFFECT_MIN:
        return EMBEDDING, why
    return (DECODER if found.probe[1] < EFFECT_MIN else FAILS), why


def judge_distance(gap: Bounds, control: Bounds, nearer: float, sources: int) -> tuple[str, str]:
    """The verdict on distances and why: from the bounds of unseen - seen, and of one random half - the other.

    `nearer`: lower bound of how much nearer samples of seen combinations lie to their own source than to another.
    """
    if sources < SOURCES_MIN:
        return CANNOT_TELL, f"A group has {sources} of {SOURCES_MIN} sources."
    if not all(map(math.isfinite, (*gap, *control, nearer))):
        return CANNOT_TELL, "A number is undefined."
    if nearer < EFFECT_MIN:
        return CANNOT_TELL, f"Samples of seen combinations lie nearer to their source than to another by {nearer:.2f}."
    if _differs(control):
        return CANNOT_TELL, f"Two halves of the seen combinations differ by {_range(control)}."
    return _farther(gap), f"Samples of unseen combinations lie {_range(gap)} farther from their source."


def judge_walk(gap: Bounds, control: Bounds) -> tuple[str, str]:
    """The verdict on a walk and why: from the bounds of walk - images, and of control - walk."""
    if not all(map(math.isfinite, (*gap, *control))):
        return CANNOT_TELL, "A number is undefined."
    if control[0] <= 0:
        return CANNOT_TELL, f"Between images of different walks samples lie {_range(control)} farther: no control."
    return _farther(gap), f"Between neighbours samples lie {_range(gap)} farther from their vector."


def outcome(verdicts: Collection[str]) -> Outcome:
    """Whether it is shown that all attributes that can be judged hold."""
    judged = [verdict for verdict in verdicts if verdict != CANNOT_TELL]
    if not judged:
        return "cannot tell"
    return "shown" if all(verdict == HOLDS for verdict in judged) else "opposite"


def _farther(gap: Bounds) -> str:
    return FAILS if gap[0] >= EFFECT_MIN else HOLDS if gap[1] < EFFECT_MIN else CANNOT_TELL


def _differs(bounds: Bounds) -> bool:
    return bounds[0] >= EFFECT_MIN or bounds[1] <= -EFFECT_MIN


def _range(bounds: Bounds) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"
