"""The rule of inversion."""

SAMPLES, INVERSION, CANNOT_TELL = "SAMPLES NEARER", "INVERSION NEARER", "CANNOT TELL"
RULE = (
    "SAMPLES NEARER: to the judge the fitted images are farther from their sources than the samples are, and the "
    "interval of the difference lies above 0. INVERSION NEARER: it lies below 0. CANNOT TELL: it holds 0, or not even "
    "the nearer of both is nearer to its own source than to another one."
)


def judge(low: float, high: float, own_high: float) -> str:
    """Of the difference fitted - samples; `own_high`: the upper end of how much farther the nearer of both is from its
    own source than from another one."""
    if not own_high < 0:
        return CANNOT_TELL
    if low > 0:
        return SAMPLES
    return INVERSION if high < 0 else CANNOT_TELL
