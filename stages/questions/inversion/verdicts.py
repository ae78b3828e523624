"""The rule of inversion."""

SAMPLES, INVERSION, CANNOT_TELL = "SAMPLES NEARER", "INVERSION NEARER", "CANNOT TELL"
EFFECT_MIN = 0.05
"""The smallest difference that counts, in distances of two random images. With enough sources an interval excludes 0 by
any difference, however small."""
RULE = (
    "SAMPLES NEARER: to the judge the fitted images are farther from their sources than the samples are, and the "
    f"interval of the difference lies at {EFFECT_MIN:g} or above. INVERSION NEARER: it lies at −{EFFECT_MIN:g} or "
    "below. CANNOT TELL: all else, and where not even the nearer of both is nearer to its own source than to another "
    f"one by {EFFECT_MIN:g} or more."
)


def judge(low: float, high: float, own_high: float) -> str:
    """Of the difference fitted - samples; `own_high`: the upper end of how much farther the nearer of both is from its
    own source than from another one."""
    if not own_high <= -EFFECT_MIN:
        return CANNOT_TELL
    if low >= EFFECT_MIN:
        return SAMPLES
    return INVERSION if high <= -EFFECT_MIN else CANNOT_TELL
