"""Repscope from Python: the same steps as the command line, and the tables of embeddings that they leave.

    import repscope

    repscope.run("study.yaml", "store", executor="inline")
    repscope.show("study.yaml", "cat.png", "store")      # a notebook shows it; .png() and .page() are bytes
    table = repscope.open("store").study("scenes")["simclr:projector"]
    table.nearest("000000007", k=5, where="split = 'heldout'")

Each name is imported when it is first used, so `import repscope` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.public import plan, run, show
    from pipeline.reading import open
    from pipeline.study import load

__all__ = ["load", "open", "plan", "run", "show"]

_MODULES = {
    "load": "pipeline.study",
    "open": "pipeline.reading",
    "plan": "pipeline.public",
    "run": "pipeline.public",
    "show": "pipeline.public",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'repscope' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
