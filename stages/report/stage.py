"""The `report` step: one page that a browser opens without a server."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from stages.contract import Added, Estimate, External, Function, Inputs, Output, Part, Settings, Stage, Summary
from stages.questions.catalogue import QUESTIONS, section_of


class OwnSection(Settings):
    """A question of the user's own: its name in the study, and the class that has its section."""

    name: str
    """As the study calls it."""
    kind: Annotated[str, Function()]
    """`path/to/file.py:Class`."""


class Report(Stage):
    """Writes `report.html` from answers (`results.<question>`) and from what was trained on the way.

    Other inputs: `decoder`, `readers`, `probes`, `shards`, and `encoder.<name>` for each encoder that was pretrained or
    imported; any of them may be absent; the page then has fewer parts.
    """

    name: ClassVar[str] = "report"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = True
    imported_by_name: ClassVar[tuple[str, ...]] = tuple(map(section_of, QUESTIONS))

    title: str = ""
    """Headline of the page; empty: one from the names of the encoders."""
    study: str
    """Name of the study, as the command line takes it."""
    question_order: tuple[str, ...] = ("kept", "faithfulness", "invariance")
    """Questions that come first on the page; all others follow in the order of the catalogue. The default is in the key
    of every report, so a new question is not added to it."""

    own: Annotated[tuple[OwnSection, ...], Added(when_absent=())] = ()
    """Questions of the user's own, whose sections stand in files outside the package."""

    def external(self) -> Mapping[str, External]:
        """The files of code of the user's own questions."""
        return {f"code.{question.name}": External(question.kind.rpartition(":")[0], "code") for question in self.own}

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Seconds, and a few megabytes of pictures."""
        return Estimate(rows=1, size_bytes=4_000_000, cpu_seconds=5)

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Writes the page; the summary holds its headlines, as lines for a terminal."""
        from stages.report.page import page_of

        page, written = page_of(self, inputs)
        data = out.put("report.html", written)
        return {"size_bytes": len(data), "headlines": list(page.headlines)}
