"""The few numbers that matter, as lines for a terminal: what each tap keeps, how faithful it is, what was found."""

from collections.abc import Iterable

from stages.contract import Inputs
from stages.questions.format import RESULTS, Row, load_rows
from stages.questions.verdicts import BOTH, findings

RESULT_INPUT = "results."
MOST = 9
"""Attributes in one line: those known of each image come first."""


def headlines(inputs: Inputs) -> list[str]:
    """Lines from the rows of all answers, in the order of their taps."""
    rows = [
        row for name in sorted(inputs) if name.startswith(RESULT_INPUT) for row in load_rows(inputs[name].read(RESULTS))
    ]
    lines = []
    for metric, question in (("kept", "kept"), ("kept difference", "kept, backbone - projector")):
        for place, here in _by_tap(row for row in rows if row.metric == metric):
            named = place.removesuffix(f":{BOTH}")
            lines.append(f"{question}  {named}  " + "  ".join(f"{r.subject} {r.value:.2f}" for r in here[:MOST]))
    for row in rows:
        if row.metric == "mrr" and row.subject == "samples":
            lines.append(f"MRR  {row.encoder}:{row.tap}  {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]  {row.unit}")
    lines += [f"finding {f.number}  {f.encoder}  {f.outcome}: {f.why}" for f in findings(rows)]
    return lines


def _by_tap(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.encoder}:{row.tap}", []).append(row)
    return list(found.items())
