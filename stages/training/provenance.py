"""What a training ran with, for cards and pages: the versions that decide its numbers, and the day.

A training writes them into its own files, which are not the same on every machine anyhow; a bitwise stage never does.
"""

import importlib.metadata
import platform
import time

LIBRARIES = (
    "repscope",
    "lightly",
    "numpy",
    "pillow",
    "ray",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "webdataset",
    "zarr",
)


def versions() -> dict[str, str]:
    """Version of Python and of each installed library that a training may depend on, by name."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def today() -> str:
    """The day in UTC as `2026-11-22`. No hour, so that training again on that day may give equal bytes."""
    return time.strftime("%Y-%m-%d", time.gmtime())
