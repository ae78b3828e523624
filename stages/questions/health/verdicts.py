"""What the numbers of health are called: the rules and their thresholds."""

import math

COLLAPSED, NARROW, SPREAD_OUT = "COLLAPSED", "NARROW", "SPREAD OUT"
MORE, LESS, NO_DIFFERENCE = "MORE ALIKE", "LESS ALIKE", "NO DIFFERENCE"
CANNOT_TELL = "CANNOT TELL"

ONE_DIRECTION = 2.0
"""An effective rank below this is little more than one direction."""
NARROW_SHARE = 0.1
"""A tap is narrow where its effective rank is below this share of the largest that is possible."""
IMAGES_MIN = 100
"""Images below which a rank says nothing on a tap."""
EFFECT_MIN = 0.05
"""CKA or shared neighbours must differ from their floor by this."""

THRESHOLDS = (
    f"COLLAPSED: an effective rank below {ONE_DIRECTION:g}. NARROW: below {NARROW_SHARE:g} of the most that the width "
    f"and the number of images allow. SPREAD OUT: all else. CANNOT TELL: fewer than {IMAGES_MIN} images. MORE ALIKE, "
    f"LESS ALIKE: the interval of the difference to the floor lies beyond {EFFECT_MIN:g} or −{EFFECT_MIN:g}. NO "
    f"DIFFERENCE: it lies between them. CANNOT TELL: all else."
)


def of_tap(rank: float, width: int, images: int) -> str:
    """The verdict on a tap of `width` features, from its effective rank over `images` images."""
    if images < IMAGES_MIN:
        return CANNOT_TELL
    if rank < ONE_DIRECTION:
        return COLLAPSED
    return NARROW if rank < NARROW_SHARE * min(width, images - 1) else SPREAD_OUT


def of_pair(low: float, high: float) -> str:
    """The verdict on two taps, from the interval of the paired difference of their likeness to its floor."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return CANNOT_TELL
    if low >= EFFECT_MIN:
        return MORE
    if high <= -EFFECT_MIN:
        return LESS
    return NO_DIFFERENCE if low > -EFFECT_MIN and high < EFFECT_MIN else CANNOT_TELL
