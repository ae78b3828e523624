"""A cache file of this user on this machine: JSON by name, replaced whole. It saves time and decides nothing."""

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/repscope`, by default `~/.cache/repscope`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repscope"


def load(name: str) -> dict[str, Any]:
    """What was saved under this name; empty where there is nothing or nothing readable."""
    with suppress(OSError, ValueError, RuntimeError):
        found = json.loads((cache_folder() / name).read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def save(name: str, document: dict[str, Any]) -> None:
    """Saves under this name; without a word where the folder cannot be written."""
    with suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / f"{name}.{os.getpid()}-{threading.get_ident()}"
        staged.write_text(json.dumps(document))
        staged.replace(folder / name)
