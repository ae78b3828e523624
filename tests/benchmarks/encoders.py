"""Every family of the libraries, imported as a user would, against the library's own forward pass.

    python -m tests.benchmarks.encoders --library timm --minutes 20

Each network has random weights, with shuffled normalisations, in a file as its library writes it. The file goes through
the step `encoder` and is loaded again; then `backbone` of two images is compared with what the library gives. Rows are
appended to a file of JSON lines as they come: an interrupted sweep goes on where it stopped, and a network at which the
process ended is not tried again. `tests.benchmarks.encoders_page` prints docs/results/encoders.md from that file, and
`tests.benchmarks.encoder_libraries` lists the networks.
"""

import argparse
import gc
import json
import re
import tempfile
import time
from pathlib import Path

import torch

from stages.errors import StageError
from tests.benchmarks.encoder_comparison import ApartError, Row, TooLargeError
from tests.benchmarks.encoder_libraries import LIBRARIES

ROWS = Path(tempfile.gettempdir()) / "repscope-encoders.jsonl"
WORDS = {
    "same": "same",
    "differs": "differs",
    "refused": "refused",
    "error": "an error that is not ours",
    "ended": "ended the process",
    "apart": "the library itself does not embed images alone, or not at a tiny configuration",
    "large": "not tried: too large for this machine",
}
FAILED = ("refused", "differs", "error", "ended")
"""Outcomes of networks that were tried and are not the same."""


def tried(library: str, name: str) -> Row:
    """The row of one network."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = LIBRARIES[library][1](name, Path(folder))
        except StageError as error:
            row = {"outcome": "refused", "why": f"expected {error.expected}; found {error.found}"}
        except ApartError as error:
            row = {"outcome": "apart", "why": str(error)}
        except TooLargeError as error:
            row = {"outcome": "large", "why": str(error)}
        # A sweep goes on, and counts it.
        except Exception as error:
            row = {"outcome": "error", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    gc.collect()
    return {"library": library, "name": name, "seconds": round(time.process_time() - start, 1)} | row


def read_rows(path: Path) -> dict[tuple[str, str], Row]:
    """The last row of each network; one that was begun and has no other ended the process."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(row["library"], row["name"]): row for row in map(json.loads, lines)}


def sweep(library: str, path: Path, seconds: float, only: str, again: bool) -> None:
    """Tries the networks of a library that match `only` and have no row yet, until the time is over.

    `again`: also those whose row is one of a failure.
    """
    stop, done = time.monotonic() + seconds, read_rows(path)
    with path.open("a") as file:
        listed = done.get((library, "*"))
        names = listed["names"] if listed else list(LIBRARIES[library][0]())
        if listed is None:
            file.write(json.dumps({"library": library, "name": "*", "names": names}) + "\n")
        for name in names:
            before = done.get((library, name))
            if not re.search(only, name) or (before and not (again and before["outcome"] in FAILED)):
                continue
            if time.monotonic() > stop:
                return
            file.write(
                json.dumps({"library": library, "name": name, "outcome": "ended", "why": "", "seconds": 0}) + "\n"
            )
            file.flush()
            row = tried(library, name)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{library} {name}: {WORDS[row['outcome']]} {row.get('difference', '')} {row['why']}", flush=True)


def main() -> None:
    """Runs the sweep."""
    parser = argparse.ArgumentParser(description="Encoders of the libraries against the libraries themselves.")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="one of them; all by default")
    parser.add_argument("--minutes", type=float, default=60, help="for each library")
    parser.add_argument("--only", default="", help="names that match this expression")
    parser.add_argument("--again", action="store_true", help="try those again that were not the same")
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"the file of rows, {ROWS} by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for library in given.library or LIBRARIES:
        sweep(library, given.rows, 60 * given.minutes, given.only, given.again)


if __name__ == "__main__":
    main()
