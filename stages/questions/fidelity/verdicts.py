"""The rule of fidelity."""

MARGIN = 0.05
"""What precision and recall may fall short of those of images."""
AS_IMAGES, BELOW, CANNOT_TELL = "AS IMAGES", "BELOW IMAGES", "CANNOT TELL"
RULE = (
    f"AS IMAGES: the interval of the difference to real images lies above -{MARGIN:g}. BELOW IMAGES: it lies below "
    f"-{MARGIN:g}. CANNOT TELL: it holds -{MARGIN:g}, or few real images are covered themselves."
)
FLOOR_MIN = 0.3
"""Precision or recall of real images below which the space says too little."""


def judge(low: float, high: float, floor: float) -> str:
    """Of the interval of the paired difference to real images, whose own value is `floor`."""
    if not floor >= FLOOR_MIN:
        return CANNOT_TELL
    if low > -MARGIN:
        return AS_IMAGES
    return BELOW if high < -MARGIN else CANNOT_TELL
