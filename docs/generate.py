"""Writes the pages of the reference that come from the code: the study's fields, the command line, the errors.

`python -m docs.generate` writes them; a test fails where a page is not what the code says today. A field's description
is the string below it in the code. A field that holds a block of its own is described by the docstring of that block.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import cluster.errors
import pipeline.errors
import stages.errors
from pipeline.cli import main
from pipeline.study import DECODERS, Study
from stages.contract import Unkeyed

FOLDER = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by `python -m docs.generate` from the code. Change the docstrings there, not this page. -->\n\n"
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "none", Any: "any value"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


class UndescribedError(Exception):
    """A field of the study has no docstring."""


def pages() -> dict[str, str]:
    """Each generated page by its file name in docs/reference/."""
    return {"study.md": study_page(), "commands.md": commands_page(), "errors.md": errors_page()}


def study_page(study: type[BaseModel] = Study) -> str:
    """The page of all fields of a study. Raises `UndescribedError` where a field has no docstring."""
    text = NOTICE + (
        "# Fields of a study\n\n"
        "A study is one YAML file. Each block below is a part of it, named by its path in the file. A field that is "
        "not written takes its default. An unknown field is an error that suggests the nearest name. Every field is "
        "part of the key of the step that it configures, except those marked *unkeyed*, which cannot change the "
        "result. `repscope init scenes` writes a study to start from.\n"
    )
    for block in blocks(study):
        text += f"\n## {block.title}\n\n{_flat(inspect.getdoc(block.model) or '')}\n"
        fields = [(name, field) for name, field in block.model.model_fields.items() if not _constant(field)]
        if fields:
            text += "\n| field | value | default | meaning |\n|---|---|---|---|\n"
            text += "".join(_row(block, name, field) for name, field in fields)
    return text


@dataclass(frozen=True)
class Block:
    """A part of a study: the path where it first occurs, what a person writes to choose it, and its fields."""

    path: str
    marker: str
    model: type[BaseModel]
    inside: str = ""
    """Marker of the block that holds it."""

    @property
    def title(self) -> str:
        """Heading of its section."""
        words = [f"`{self.path}`" if self.path else "The study"]
        words += [f"of `{self.inside}`"] if self.inside else []
        words += [f"with `{self.marker}`"] if self.marker else []
        return " ".join(words)


def blocks(study: type[BaseModel]) -> list[Block]:
    """Every block of a study, once."""
    found: list[Block] = []

    def visit(block: Block) -> None:
        if any(known.model is block.model for known in found):
            return
        found.append(block)
        for name, field in block.model.model_fields.items():
            inner = list(models(field.annotation))
            for model in inner:
                marker = _marker(model) if len(inner) > 1 else ""
                visit(Block(_path(block.path, name, field), marker, model, block.marker or block.inside))

    visit(Block("", "", study))
    return found


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, dict, list, tuple):
        for inner in get_args(annotation):
            yield from models(inner)


def described(model: type[BaseModel], name: str) -> str:
    """What a field means: the string below it, or the first sentence on the block that it holds."""
    for owner in model.__mro__:
        if issubclass(owner, BaseModel) and owner is not BaseModel and (text := _strings(owner).get(name)):
            return _flat(text)
    field = model.model_fields[name]
    if inner := list(models(field.annotation)):
        sentences = [_sentence(inspect.getdoc(block) or "") for block in inner]
        if all(sentences):
            return sentences[0] if len(inner) == 1 else "A block of one of these kinds."
    raise UndescribedError(f"expected a docstring below {model.__name__}.{name}; found none. Write one.")


def commands_page() -> str:
    """The page of the command line: the help of each command, as it is printed."""
    # As the command line itself sets it; a context does not read the settings of its command.
    names = main.context_settings["help_option_names"]
    context = click.Context(main, None, "repscope", max_content_width=100, terminal_width=100, help_option_names=names)
    text = NOTICE + f"# Command line\n\n```text\n{main.get_help(context)}\n```\n"
    for name, command in main.commands.items():
        inner = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
        text += f"\n## repscope {name}\n\n```text\n{command.get_help(inner)}\n```\n"
    return text


def errors_page() -> str:
    """The page of errors: the tree of each room with its exit codes."""
    text = NOTICE + (
        "# Errors and exit codes\n\n"
        "An error is one message that says what was expected, what was found and what to do. The exit code of a "
        "command says which kind of error ended it.\n\n"
        "| exit code | meaning |\n|---|---|\n"
        "| 0 | done |\n"
        "| 1 | a mistake in Repscope itself; the traceback is printed |\n"
        "| 2 | wrong usage: a study, a field, a name, an input, or a cluster that cannot be used |\n"
        "| 3 | a step failed, or the store does not answer; the same command continues from what is complete |\n"
        "| 4 | `status --check`: a step is missing, broken, stale or drifted |\n"
        "| 5 | another run is at work on the same artifact |\n"
        "| 6 | `verify`: an artifact is not what its manifest says |\n"
        "| 130 | stopped with Ctrl-C; what is finished is kept |\n"
        "| 141 | the program that read the output has ended |\n"
        "| 143 | stopped by a termination signal |\n"
    )
    rooms = {"pipeline": pipeline.errors, "stages": stages.errors, "cluster": cluster.errors}
    for room, module in rooms.items():
        doc = inspect.getdoc(module) or ""
        tree = re.search(r"(?:^    .*\n)+", doc, re.MULTILINE)
        assert tree, f"{room}.errors draws its tree in its docstring"
        text += f"\n## Errors of `{room}`\n\n```text\n{textwrap.dedent(tree[0])}```\n"
    return text


def write() -> None:
    """Writes every generated page."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def _strings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field in the source of a class. A class that a function has built has no source."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):
        return {}
    (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {
        field.target.id: text.value.value
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _row(block: Block, name: str, field: FieldInfo) -> str:
    unkeyed = next((entry for entry in field.metadata if isinstance(entry, Unkeyed)), None)
    meaning = described(block.model, name) + (f" *Unkeyed: {unkeyed.why}.*" if unkeyed else "")
    bounds = [
        f"{word} {getattr(entry, limit)}"
        for entry in field.metadata
        for limit, word in BOUNDS.items()
        if getattr(entry, limit, None) is not None
    ]
    value = ", ".join([_type(field.annotation), *bounds])
    cells = (f"`{name}`", value, _default(field), meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _type(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(entry) for entry in inner))
    if origin is dict:
        return f"mapping from names to {_type(inner[1])}"
    if origin in (list, tuple):
        fixed = origin is tuple and inner[-1] is not Ellipsis
        return f"list of {len(inner)} x {_type(inner[0])}" if fixed else f"list of {_type(inner[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return " or ".join(f"`{kind}`" for kind in _kinds(annotation)) or "block"
    return WORDS.get(annotation, "text")


def _kinds(model: type[BaseModel]) -> list[str]:
    """What a person writes to choose a block; an encoder of one's own is chosen by its source."""
    if marker := _marker(model):
        return [marker]
    source = model.model_fields.get("source")
    return [kind for inner in models(source.annotation) for kind in _kinds(inner)] if source else []


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its own"
    return f"`{json.dumps(value, ensure_ascii=False)}`" if value is not None else "none"


def _path(path: str, name: str, field: FieldInfo) -> str:
    """The path of a field in the file. Fields of an encoder's `source` are written beside its other fields, and
    questions of the user's own beside the others."""
    if name == "source" and path == "encoders.<name>":
        return path
    if name == "own" and path == "questions":
        return f"{path}.<name>"
    piece = name
    if get_origin(field.annotation) is dict:
        piece = f"{name}.<name>"
    elif any(models(field.annotation)) and get_origin(field.annotation) in (list, tuple):
        piece = f"{name}.<number>"
    return f"{path}.{piece}" if path else piece


def _marker(model: type[BaseModel]) -> str:
    """What a person writes to choose this block among several."""
    for name, field in model.model_fields.items():
        if _constant(field):
            return f"{name}: {get_args(field.annotation)[0]}"
    for kind, decoder in DECODERS.items():
        if model is decoder:
            return "" if kind == "trained" else f"kind: {kind}"
    named = getattr(model, "name", "")
    return f"kind: {named}" if named == "pretrain" else ""


def _constant(field: FieldInfo) -> bool:
    """Whether the field only names its block, as `kind` does."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _flat(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    """The first sentence, up to the colon where it has one."""
    return re.sub(":$", ".", re.split(r"(?<=[.:])\s", _flat(text), maxsplit=1)[0])


if __name__ == "__main__":
    write()
