"""The store: a folder or bucket in which objects are created once and never overwritten."""


class Store:
    """Objects by name. See `open_store`."""

    url: str


def open_store(url: str) -> Store:
    """The store at a folder path or URL (`file://`, `s3://`, `gs://`, `az://`, `memory://`); writes nothing."""
    raise NotImplementedError
