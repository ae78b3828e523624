"""Questions of the user's own: classes in a file outside the package, `path/to/file.py:Class`.

Such a file runs wherever its study is read. It is known by its sha256, which is in the keys of what it makes, and its
path is not (`stages.external.code`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from stages.contract import Estimate, External, Function, Stage
from stages.errors import InputError
from stages.external import code
from stages.external.files import absolute
from stages.questions.asks.stage import painted_rows
from stages.questions.question import AskStage, Question

if TYPE_CHECKING:
    from stages.questions.answers import Answer
    from stages.questions.drawing.section import Section
    from stages.questions.drawing.taps import StyledTap

OWN = "own"
Kind = Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$"), Function()]
"""`path/to/file.py:Class`."""


def absolute_kind(kind: str) -> str:
    """The same with an absolute path, because workers may run in another folder."""
    path, _, name = kind.rpartition(":")
    return f"{absolute(path)}:{name}"


class OwnCode(Stage):
    """A stage whose class stands in a file of the user's own."""

    kind: Kind
    """`path/to/file.py:Class`. The file is in the key by its sha256, and its path is not."""

    def import_path(self) -> str:
        """See `Stage`."""
        return self.kind

    def external(self) -> Mapping[str, External]:
        """The file of code."""
        return {"code": External(self.kind.rpartition(":")[0], "code")}


class OwnAsk(OwnCode, AskStage):
    """Base of an ask of the user's own. `work` writes conditions. `OwnQuestion.beside` gives its `kind`."""

    name: ClassVar[str] = "own-ask"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """A guess, for asks that have none of their own: a thousand conditions of a thousand features."""
        return Estimate(rows=1000, size_bytes=4_000_000, cpu_seconds=10)


class OwnQuestion(OwnCode, Question):
    """A question of your own, in a file of yours; its fields are those that its class declares.

    `questions: {seams: {kind: "analysis/seams.py:Seams", seed: 3}}` asks it. Any name but that of another step will do.
    """

    name: ClassVar[str] = OWN
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    kind: Kind
    """`path/to/file.py:Class`, a class that derives from `stages.questions.own.OwnQuestion`. The file is in the key by
    its sha256, and its path is not. Its code runs wherever the study is read or worked on."""

    @field_validator("kind")
    @classmethod
    def _absolute_file(cls, kind: str) -> str:
        return absolute_kind(kind)

    @classmethod
    def section(cls, answer: "Answer", answers: "Mapping[str, Answer]", taps: "Sequence[StyledTap]") -> "Section":
        """What the page shows of the answer: by default all figures and rows as they are."""
        from stages.questions.drawing.section import Section, rows_part

        return Section(parts=(rows_part(answer, answer.question),))

    def beside(self, other: type[OwnAsk]) -> str:
        """The `kind` of a class in the same file."""
        return f"{self.kind.rpartition(':')[0]}:{other.__name__}"

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """A guess, for questions that have none of their own: that of reading all samples."""
        return Estimate(rows=100, size_bytes=100_000, cpu_seconds=5 + painted_rows(upstream) * 2e-3)


def question_class(kind: str) -> type[OwnQuestion]:
    """The class that `path/to/file.py:Class` names now. Raises ValueError where there is none, or it is no question."""
    try:
        found = code.member(kind)
    except InputError as error:
        raise ValueError(str(error).rstrip(".")) from error
    if not isinstance(found, type):
        seen = f"{type(found).__name__} {kind.rpartition(':')[2]}"
    elif not issubclass(found, OwnQuestion):
        seen = f"class {found.__name__}({', '.join(base.__name__ for base in found.__bases__)})"
    else:
        return found
    raise ValueError(f"expected a class that derives from {OwnQuestion.__module__}.OwnQuestion; found {seen} in {kind}")


def own_question(value: Any) -> OwnQuestion:
    """A question with the settings that a study has for it, checked by the class that its `kind` names.

    Raises ValueError where there is no such class, or it is no question, or its settings are wrong.
    """
    if isinstance(value, OwnQuestion):
        return value
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or not kind.rpartition(":")[0].endswith(".py"):
        found = f"kind: {kind}" if kind is not None else "no kind" if isinstance(value, dict) else repr(value)
        raise ValueError(f"expected kind: path/to/file.py:Class, a question of your own; found {found}")
    return question_class(absolute_kind(kind)).model_validate(value)
