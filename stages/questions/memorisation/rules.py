"""The rule of memorisation: what the ratio of two nearest distances is called. Every threshold stands here."""

import math

MEMORISED, NOT_MEMORISED, CANNOT_TELL = "MEMORISED", "NOT MEMORISED", "CANNOT TELL"

CONTROL_MAX = 0.1
"""The ratio of the sources is about 1; an interval that lies farther from it is no control."""
EFFECT_MIN = 0.05
"""MEMORISED: by what the ratio must be below 1. Which images there happen to be moves it by a hundredth or two, of
which an interval over sources knows nothing."""
SHARE_MAX = 0.1
"""NOT MEMORISED: at most this share of samples can be copies of train images."""

RULE = (
    f"{MEMORISED}: the upper bound of the ratio, over that of the sources, is at most {1 - EFFECT_MIN:g}. "
    f"{NOT_MEMORISED}: that bound is 1 or above, and at most {SHARE_MAX:g} of the samples can be copies, which are "
    "those that (1 − lower bound) / (share of train images that were searched) allows, since a copy has a distance "
    f"near 0 to the image that it copies. {CANNOT_TELL}: all else, and where the interval of the sources' own ratio, "
    f"which no decoder has seen, lies outside of 1 ± {CONTROL_MAX:g}: then the two splits differ, or have images in "
    "common."
)


def judge(low: float, high: float, control: tuple[float, float], searched: float) -> tuple[str, str]:
    """The verdict and the sentence that says why: from the bounds of the ratio over the sources' and of theirs.

    `searched` is the share of all train images that were searched.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return CANNOT_TELL, "No ratio is defined."
    if not (control[0] <= 1.0 + CONTROL_MAX and control[1] >= 1.0 - CONTROL_MAX):
        return CANNOT_TELL, f"The sources themselves have a ratio of {control[0]:.3f} to {control[1]:.3f}, and not 1."
    copies = max(0.0, 1.0 - low) / searched
    if high < 1.0:
        nearer = f"Samples are nearer to train images: the ratio is {low:.3f} to {high:.3f}"
        if high <= 1.0 - EFFECT_MIN:
            return MEMORISED, f"{nearer}."
        return CANNOT_TELL, f"{nearer}, by no more than which images there happen to be may account for."
    most = f"At most {100 * min(1.0, copies):.0f} % of samples can be copies"
    why = f"{most}; {100 * searched:.0f} % of train images were searched."
    return (NOT_MEMORISED if copies <= SHARE_MAX else CANNOT_TELL), why
