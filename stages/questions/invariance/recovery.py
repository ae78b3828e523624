"""Moved, but lost? Whether the embedding of an image can be computed from that of the transformed image: the rule.

A linear map from h(Tx) to h(x) is fitted to train images and scored on the held-out sources. An embedding that moves
and can be mapped back is equivariant: it holds the same in another form.
"""

from stages.questions.findings import INVARIANT_MAX
from stages.questions.format import Row
from stages.readers.score import SOURCES_MIN

INVARIANT, RE_ENCODED, LOST, PARTLY, CANNOT_TELL = "INVARIANT", "RE-ENCODED", "LOST", "PARTLY", "CANNOT TELL"
RECOVERED_MIN, LOST_MAX = 0.5, 0.2
"""Of R2, those by which kept is judged too."""
CONTROL_MIN = 0.05
"""R2 must exceed that of the control by this."""
TRAIN_MIN = 3
"""Train images for each feature of the tap, below which a map that is not found may be there: of as many images as
features a ridge finds .2 of a map that explains .5, and of three times as many .35."""

RULE = (
    f"INVARIANT: the upper bound of r is at most {INVARIANT_MAX:g}. CANNOT TELL: its interval holds that number. "
    f"RE-ENCODED: r lies above it, the lower bound of R2 is at least {RECOVERED_MIN:g}, and R2 exceeds that of a map "
    f"fitted to rows that do not belong together by {CONTROL_MIN:g} or more. LOST: the upper bound of R2 is at most "
    f"{LOST_MAX:g}, and the map was fitted to at least {TRAIN_MIN} train images for each feature. PARTLY: all else; "
    f"with fewer train images, or fewer than {SOURCES_MIN} sources, CANNOT TELL."
)


def judge(moved: Row, recovered: Row, gap: Row, per_feature: float) -> str:
    """The verdict on a transform at a tap, from its rows on r, on R2, and on R2 minus that of the control, paired.

    `per_feature`: train images that the map was fitted to, for each feature of the tap.
    """
    if moved.n < SOURCES_MIN:
        return CANNOT_TELL
    if moved.high <= INVARIANT_MAX:
        return INVARIANT
    if not moved.low > INVARIANT_MAX:
        return CANNOT_TELL
    if recovered.low >= RECOVERED_MIN and gap.low >= CONTROL_MIN:
        return RE_ENCODED
    if per_feature < TRAIN_MIN:
        return CANNOT_TELL
    return LOST if recovered.high <= LOST_MAX else PARTLY
