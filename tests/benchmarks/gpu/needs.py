"""What the run needs: the project's dependencies without those of Ray, of S3 and of TensorBoard."""

from importlib.metadata import PackageNotFoundError, version

STANDARD = (
    "click", "fsspec", "jinja2", "numpy", "pandas", "pillow", "psutil", "pyarrow", "pyyaml", "rich", "safetensors",
    "scikit-learn", "timm", "torch", "torchvision", "typing_extensions",
)  # fmt: skip
"""What a machine for PyTorch has anyway."""
SMALL = (
    "annotated-types", "braceexpand", "donfig", "google-crc32c", "lightly", "numcodecs", "obstore", "packaging",
    "pydantic", "pydantic_core", "rfc8785", "typing-inspection", "webdataset", "zarr",
)  # fmt: skip
"""What it may lack: small wheels."""


def needed() -> tuple[str, ...]:
    """All of them by distribution, sorted."""
    return tuple(sorted(STANDARD + SMALL))


def missing() -> list[str]:
    """Those that are not installed here."""
    return [name for name in needed() if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
