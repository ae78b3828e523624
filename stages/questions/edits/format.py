"""Names of what the ask writes and of what the answer reports."""

ABOUT = "edits.json"
"""What each source was to become."""
MEANS, PROBE, PCA, RANDOM = "means", "probe", "pca", "random"
"""Directions of edits; the last is the control."""
ZERO, SWAP = "zero", "swap"
"""Edits of the dimensions that neighbours have in common."""
CONTROL = " random"
"""Added to the name of an edit of dimensions that is of random ones."""
LINEAR, SPHERICAL, PIXELS = "linear", "spherical", "pixels"
"""Paths to another source; the last is the blend of the two images, the control."""
END = "end"
"""The other end of the paths."""
ON = "effect on "
"""Metric of rows on what an edit of one attribute (the subject) does to another, before the name of that."""
DIMENSIONS = "dimensions on "
"""The same of edits of dimensions, which are to change no attribute that is known."""


def variant(method: str, strength: float, attribute: str = "") -> str:
    """Name of a condition: how it was edited, how far, and which attribute was to change."""
    return f"{method} {strength:g} {attribute}".rstrip()
