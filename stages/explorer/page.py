"""The page of the explorer: its content as JSON inside one HTML file, with the script that draws it.

The script makes every element from data and sets text as text, so what comes from a study is never markup. The content
security policy allows this script, no other, and nothing from the network.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.explorer.content import COLUMNS, SHEET, Content, Label, Samples, Sheets, Tap

HERE = Path(__file__).parent
STYLE, SCRIPT, PAGE = "page.css", "page.js", "page.html"
OFFLINE, OWN_SERVER = "'none'", "'self'"
"""What the page may connect to."""


def render(content: Content, served: bool = False) -> bytes:
    """The page as UTF-8 bytes. `served`: it may ask the server that it came from about further images."""
    script = _file(SCRIPT)
    parts = {
        "title": html.escape(f"Explore {content.study}"),
        "style": _file(STYLE),
        "script": script,
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "connect": OWN_SERVER if served else OFFLINE,
        "data": dump(content, served),
    }
    # In one pass, so that nothing inside a part is taken for the name of another.
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], _file(PAGE)).encode()


def dump(content: Content, served: bool = False) -> str:
    """The content as JSON that can stand inside a script element; arrays are little-endian, in base64."""
    data = {
        "study": content.study,
        "facts": content.facts,
        "notes": content.notes,
        "keys": content.keys,
        "names": content.names,
        "labels": [_label(label) for label in content.labels],
        "pictures": _sheets(content.pictures),
        "taps": [_tap(tap) for tap in content.taps],
        "ranked": content.ranked,
        "served": served,
    }
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _label(label: Label) -> dict[str, Any]:
    return {
        "name": label.name,
        "kind": label.kind,
        "classes": label.classes,
        "values": _array(label.values.astype("<f4")),
    }


def _tap(tap: Tap) -> dict[str, Any]:
    return {
        "id": tap.id,
        "width": tap.width,
        "maps": [
            {"name": one.name, "about": one.about, "points": _array(one.points.astype("<f4"))} for one in tap.maps
        ],
        "k": tap.near.shape[1],
        "near": _array(tap.near.astype("<u4")),
        "distances": _array(tap.distances.astype("<f4")),
        "kept": {
            name: {"verdict": kept.verdict, "value": _number(kept.value), "low": _number(kept.low)}
            | {"high": _number(kept.high), "why": kept.why}
            for name, kept in tap.kept.items()
        },
        "samples": None if tap.samples is None else _samples(tap.samples),
        "ranks": None if tap.ranks is None else _array(tap.ranks.astype("<f4")),
    }


def _samples(samples: Samples) -> dict[str, Any]:
    points = _array(samples.points.astype("<u4"))
    return {"points": points, "perSource": samples.per_source} | _sheets(samples.sheets)


def _sheets(sheets: Sheets) -> dict[str, Any]:
    files = [_base64(file) for file in sheets.files]
    return {"side": sheets.side, "columns": COLUMNS, "each": SHEET, "sheets": files}


def _array(array: NDArray[Any]) -> str:
    return _base64(np.ascontiguousarray(array).tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").rstrip("\n")
