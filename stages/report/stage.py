"""The `report` step: one page that a browser opens without a server."""

from collections.abc import Mapping
from typing import Any, ClassVar

from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary


class Report(Stage):
    """Writes `report.html` from answers (`results.<question>`) and from what was trained on the way.

    Other inputs: `decoder`, `readers`, `probes`, `shards`, and `encoder.<name>` for each encoder that was pretrained or
    imported; any of them may be absent, the page then says less.
    """

    name: ClassVar[str] = "report"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = True

    title: str = ""
    """Headline of the page; empty: one is made from the names of the encoders."""
    study: str
    """Name of the study, as the command line takes it."""
    question_order: tuple[str, ...] = ("kept", "faithfulness", "invariance")
    """Order of the questions on the page; one that is not named here comes after them."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Seconds, and a few megabytes of pictures."""
        return Estimate(rows=1, size_bytes=4_000_000, cpu_seconds=5)

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Writes the page; the summary holds its headlines, as lines for a terminal."""
        from stages.report.headlines import headlines
        from stages.report.page import render

        data = out.put("report.html", render(self, inputs))
        return {"size_bytes": len(data), "headlines": headlines(inputs)}
