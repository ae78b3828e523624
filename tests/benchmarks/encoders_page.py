"""Prints docs/results/encoders.md from the rows that `tests.benchmarks.encoders` has left.

    python -m tests.benchmarks.encoders_page > docs/results/encoders.md

A network that has not run is named, so the page of a sweep that was stopped says what it leaves open.
"""

import argparse
import re
import tempfile
from pathlib import Path

from tests.benchmarks.encoder_comparison import LARGEST, Row
from tests.benchmarks.encoder_libraries import LIBRARIES
from tests.benchmarks.encoders import FAILED, ROWS, WORDS, read_rows

CELL = 240
"""Letters of a reason on the page."""
HEADER = """# Encoders of the libraries

Each network has random weights in a file as its library writes it. The file goes through the step `encoder`, with all
its checks, and the encoder is loaded again. Then `backbone` of two images is compared with what the library's own
network gives. *Same* is a relative difference (L2) of at most 0.001. *Refused* is an error of ours that names the
reason. *Differ* would be a silent difference. The share is that of the networks that were tried. The
sweep may be stopped: each section lists what has not run, of which the share says nothing.

- timm: the smallest member of each family, among five that their names suggest.
- torchvision: all classifiers.
- transformers: every model that reads images, and the vision parts of models of images and text, at a tiny
  configuration. *Same* means one of the outputs that its users take: `image_embeds`, `pooler_output`, the class token,
  or the mean of the tokens, of the patches or of the map.
- processors: every image processor of transformers at its defaults. *Refused* means that a study has to write out
  `size`, `mean` and `std`; *same* means pixels within a level of 255.

`python -m tests.benchmarks.encoders` makes the rows, and `python -m tests.benchmarks.encoders_page` prints this page
from them."""
GOALS = {"timm": 0.95, "torchvision": 0.95, "transformers": 0.9}


def page(rows: dict[tuple[str, str], Row]) -> str:
    """docs/results/encoders.md."""
    lines = [HEADER, "", "| library | networks | tried | same | share | goal | refused | differ | other errors |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    parts: list[str] = []
    for library in LIBRARIES:
        own = [row for (of, name), row in rows.items() if of == library and name != "*"]
        names = rows.get((library, "*"), {"names": []})["names"]
        of = {outcome: [row for row in own if row["outcome"] == outcome] for outcome in WORDS}
        failed = [row for outcome in FAILED for row in of[outcome]]
        tried_count = len(of["same"]) + len(failed)
        share = f"{len(of['same']) / tried_count:.0%}" if tried_count else "-"
        goal = f"{GOALS[library]:.0%}" if library in GOALS else "-"
        counts = [len(of["refused"]), len(of["differs"]), len(of["error"]) + len(of["ended"])]
        lines.append(f"| {library} | {len(names)} | {tried_count} | {len(of['same'])} | {share} | {goal} | ")
        lines[-1] += " | ".join(map(str, counts)) + " |"
        parts += ["", f"## {library}", ""]
        if failed:
            parts += ["| network | outcome | why |", "|---|---|---|"]
            parts += [f"| `{row['name']}` | {WORDS[row['outcome']]} | {_cell(row)} |" for row in failed]
        else:
            parts.append("All that were tried are the same.")
        if of["apart"]:
            parts += ["", f"Apart: {WORDS['apart']}. The library reports:", "", "| network | why |", "|---|---|"]
            parts += [f"| `{row['name']}` | {_cell(row)} |" for row in of["apart"]]
        for words, some in (
            (f"Not tried, for more than {LARGEST / 1e6:.0f} million parameters", [row["name"] for row in of["large"]]),
            ("Not run", [name for name in names if (library, name) not in rows]),
        ):
            parts += ["", f"{words}: {', '.join(f'`{name}`' for name in some)}."] if some else []
    return "\n".join(lines + parts)


def _cell(row: Row) -> str:
    """Why a network is not the same, in a cell of a table."""
    far = f"by {row['difference']:g}; " if row["outcome"] == "differs" and "difference" in row else ""
    # The file of weights is in a temporary folder.
    why = re.sub(rf"{re.escape(tempfile.gettempdir())}/\S*?(?=[;,.]?(\s|$))", "a folder", row["why"])
    return f"{far}{why}".replace("|", "\\|")[:CELL]


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description="The page of results from the rows of the sweep over encoders.")
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"the file of rows, {ROWS} by default")
    print(page(read_rows(parser.parse_args().rows)))


if __name__ == "__main__":
    main()
