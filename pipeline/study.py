"""A study: what a person writes. Reads the YAML file, checks every field, and says what is wrong in words.

The blocks of a study are the stages' own settings, so each field is declared, documented and checked in one place.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from pipeline.errors import UsageError
from stages.contract import Settings
from stages.decoder.extension.stage import Extension
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.stage import Decoder
from stages.encoders.sources.settings import KINDS, PRESETS, Override, from_short
from stages.encoders.spec import Oracle, Untrained
from stages.encoders.stage import Imported
from stages.listing.stage import Listing
from stages.pretrain.stage import Pretrain
from stages.questions.catalogue import QUESTIONS
from stages.questions.own import OwnQuestion, own_question
from stages.questions.question import AskStage, Question
from stages.readers.stage import Probes, Readers
from stages.samples.stage import Samples
from stages.shards.stage import Shards

RCDM = Override.model_validate(PRESETS["rcdm"])
"""How an encoder sees images as published decoders were trained with."""

RECIPES = Path(__file__).parent / "recipes"


def _by_kind(value: Any) -> Any:
    """`{kind: pretrain, …}` names the class and the rest are its fields; kinds of sources have a short form too."""
    kinds: Mapping[str, type[BaseModel]] = {"pretrain": Pretrain, "untrained": Untrained, "oracle": Oracle}
    kinds = {**kinds, **dict.fromkeys(KINDS, Imported)}
    if isinstance(value, BaseModel):
        return value
    if not isinstance(value, dict):
        value = from_short(value)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"expected kind to be one of {', '.join(kinds)}; found {kind!r}")
    if kind in KINDS:
        return Imported.model_validate(value)
    return kinds[kind].model_validate({name: entry for name, entry in value.items() if name != "kind"})


Encoder = Annotated[Pretrain | Untrained | Oracle | Imported, BeforeValidator(_by_kind)]


ADM, RELEASED, TRAINED = "adm", "released", "trained"
"""`architecture: adm`, `kind: released`, or neither of them."""
DECODERS: Mapping[str, type[BaseModel]] = {ADM: Rcdm, RELEASED: ReleasedDecoder, TRAINED: Decoder}


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind", value.get("architecture", TRAINED)))
    if isinstance(value, ReleasedDecoder):
        return RELEASED
    return ADM if isinstance(value, Rcdm) else TRAINED


def _without_kind(value: Any) -> Any:
    return {name: entry for name, entry in value.items() if name != "kind"} if isinstance(value, dict) else value


AnyDecoder = Annotated[
    Annotated[Decoder, BeforeValidator(_without_kind), Tag(TRAINED)]
    | Annotated[Rcdm, Tag(ADM)]
    | Annotated[ReleasedDecoder, BeforeValidator(_without_kind), Tag(RELEASED)],
    Discriminator(
        _kind,
        custom_error_type="decoder_kind",
        custom_error_message=f"expected kind: {RELEASED}, architecture: {ADM}, or neither",
    ),
]


class Dataset(Settings):
    """Where images come from and how they are stored."""

    listing: Listing
    shards: Shards = Shards()


class AskedQuestions(Settings):
    """What is asked: a field for each question of the catalogue. One that is absent is not asked.

    Any other name is a question of your own, with `kind: path/to/file.py:Class`.
    """

    name_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z][a-z0-9_-]*")

    own: dict[str, Annotated[OwnQuestion, BeforeValidator(own_question)]] = Field(default_factory=dict)
    """Questions of your own; each is written beside the others, by its name."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Questions of the user's own are written beside the others."""
        if not isinstance(value, dict):
            return value
        given = {name: entry for name, entry in value.items() if isinstance(entry, dict) and "kind" in entry}
        for name, entry in given.items():
            # A question of the user's own may be called `kind`; then what stands there is no text.
            if name in cls.model_fields and isinstance(entry["kind"], str):
                raise ValueError(
                    f"expected another name for a question of your own than {', '.join(sorted(cls.model_fields))}; "
                    f"found {name!r}, which has a meaning already. Rename it"
                )
        found = {name: entry for name, entry in given.items() if name not in cls.model_fields}
        if not found:
            return value
        others = {name: entry for name, entry in value.items() if name not in found}
        own = value.get("own", {})
        return others | ({"own": own | found} if isinstance(own, dict) else {})

    @field_validator("own")
    @classmethod
    def _named(cls, value: dict[str, OwnQuestion]) -> dict[str, OwnQuestion]:
        for name in value:
            if not cls.name_pattern.fullmatch(name):
                raise ValueError(f"expected names of questions to match {cls.name_pattern.pattern}; found {name!r}")
        return value

    def asked(self) -> dict[str, Question]:
        """The questions that are asked by their names, in the order of the catalogue, the user's own last."""
        found = {question.name: getattr(self, question.name) for question in QUESTIONS}
        return {name: question for name, question in found.items() if question is not None} | self.own


class WrittenStudy(Settings):
    """The fields of a study that do not depend on the catalogue; `Study` has the others too."""

    name_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

    encoder_pattern: ClassVar[re.Pattern[str]] = re.compile(r"(?!\.+$)[A-Za-z0-9_.=+@,-]+")
    """Encoders' names are parts of object names."""

    study: str
    """Its name: lower-case letters, digits, `-` and `_`."""
    title: str = ""
    """Headline of the report."""
    dataset: Dataset
    encoders: dict[str, Encoder] = Field(min_length=1)
    readers: Readers = Readers()
    probes: Probes = Probes()
    decoder: AnyDecoder
    decoder_seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Further seeds of the decoder: each is trained and painted from as well, so that intervals of kept include what
    differs between trainings."""
    extensions: tuple[Extension, ...] = ()
    """Further taps, each group taught to the finished decoder; what is finished stays as it is."""
    samples: Samples = Samples()
    questions: AskedQuestions

    def ask_settings(self, ask: type[AskStage]) -> AskStage:
        """The settings of an ask: the study's field of its name."""
        settings = getattr(self, ask.name)
        assert isinstance(settings, ask)
        return settings

    def checkpoints(self) -> dict[str, tuple[str, float]]:
        """Checkpoints that trainings keep, `<encoder>@<share>`: the training, and the share of it that was done."""
        return {
            f"{name}@{share:g}": (name, share)
            for name, encoder in self.encoders.items()
            if isinstance(encoder, Pretrain)
            for share in encoder.checkpoints
        }

    def named_encoders(self) -> dict[str, Encoder]:
        """What taps may name: the encoders, and after each its checkpoints, which have its settings."""
        found: dict[str, Encoder] = {}
        for name, encoder in self.encoders.items():
            own = [checkpoint for checkpoint, (training, _) in self.checkpoints().items() if training == name]
            found |= dict.fromkeys([name, *own], encoder)
        return found

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.name_pattern.fullmatch(self.study):
            raise ValueError(f"expected study to match {self.name_pattern.pattern}; found {self.study!r}")
        for encoder in self.encoders:
            if not self.encoder_pattern.fullmatch(encoder):
                raise ValueError(f"expected names of encoders of letters, digits and `_.=+@,-`; found {encoder!r}")
        if taken := self.checkpoints().keys() & self.encoders.keys():
            raise ValueError(f"expected no encoder named as the checkpoint of another; found {min(taken)!r}")
        known = self.named_encoders()
        if self.decoder_seeds and (isinstance(self.decoder, ReleasedDecoder) or self.extensions):
            raise ValueError("expected decoder_seeds of a decoder that is trained here, and without extensions")
        if not isinstance(self.decoder, ReleasedDecoder):
            seeds = [self.decoder.seed, *self.decoder_seeds]
            if len(set(seeds)) < len(seeds):
                raise ValueError(
                    f"expected decoder_seeds to differ from each other and from decoder.seed; found {seeds}"
                )
        if self.extensions and not isinstance(self.decoder, Decoder):
            raise ValueError("expected extensions of a decoder without kind and architecture only")
        if self.extensions and (numbers := [name for name in self.encoders if name[:1].isdigit()]):
            # Steps of an extension are told apart by its number.
            raise ValueError(
                f"expected names of encoders that begin with a letter, where there are extensions; found {numbers[0]!r}"
            )
        every = [*self.decoder.taps, *(tap for extension in self.extensions for tap in extension.taps)]
        for tap in every:
            if self.extensions and every.count(tap) > 1:
                raise ValueError(f"expected each tap once among decoder and extensions; found {tap!r} again")
            encoder, _, name = tap.partition(":")
            if encoder not in known:
                meant = _meant(encoder, known)
                raise ValueError(f"expected taps of the encoders {', '.join(known)}; found {tap!r}{meant}")
            taps = taps_of(known[encoder])
            if name not in taps:
                meant = _meant(name, taps)
                raise ValueError(f"expected one of the taps of {encoder}: {', '.join(taps)}; found {tap!r}{meant}")
        for tap in (tap for question in self.questions.asked().values() for tap in question.reference_taps()):
            encoder, _, name = tap.partition(":")
            if encoder not in known or name not in taps_of(known[encoder]):
                raise ValueError(f"expected references to be taps of the study's encoders; found {tap!r}")
            if isinstance(known[encoder], Oracle) or encoder in {tap.partition(":")[0] for tap in every}:
                raise ValueError(
                    f"expected references that read pixels and are not under study; found {tap!r}, "
                    "whose encoder has taps at the decoder or is an oracle"
                )
        if isinstance(self.decoder, ReleasedDecoder) and self.decoder.preprocessing == "rcdm":
            name = self.decoder.taps[0].partition(":")[0]
            if getattr(known[name], "preprocessing", None) != RCDM:
                # No shape tells, and the samples would be of something else.
                raise ValueError(
                    f"expected preprocessing: rcdm at encoders.{name}, as published decoders were trained with; found "
                    "another (or preprocessing: unchecked at the decoder, where that one was trained with another)"
                )
        return self


if TYPE_CHECKING:
    Study = WrittenStudy
else:
    _asked = create_model(
        "Questions", __base__=AskedQuestions, **{question.name: (question | None, None) for question in QUESTIONS}
    )
    _by_default = {question.name: question() for question in QUESTIONS if question.by_default}
    Study = create_model(
        "Study",
        __base__=WrittenStudy,
        __doc__="Everything that a person writes about one study, with a field for the settings of each ask.",
        questions=(_asked, _asked(**_by_default)),
        **{ask.name: (ask, ask()) for ask in {question.ask.stage: None for question in QUESTIONS if question.ask}},
    )


def taps_of(encoder: Pretrain | Untrained | Oracle | Imported) -> tuple[str, ...]:
    """The taps that an encoder has, known before it exists."""
    if isinstance(encoder, Imported):
        return encoder.tap_names()
    if isinstance(encoder, Oracle):
        return ("attributes", "pixels")
    layers = len(encoder.architecture.projector)
    return ("backbone", *(f"projector.{layer}" for layer in range(layers - 1)), "projector")


class _Reader(yaml.SafeLoader):
    """Plain YAML whose keys are the text that is written, also `null`, `on` and `1`, which YAML takes for values.

    A key that is written twice is an error, where plain readers keep the last.
    """

    _plain = frozenset(tag for found in yaml.SafeLoader.yaml_implicit_resolvers.values() for tag, _ in found)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as it is written."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.composer.ComposerError(None, None, f"{key.value!r} is written twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node, after its `<<` are resolved."""
        self.flatten_mapping(node)
        for key, _ in node.value:
            if key.tag in self._plain:
                key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


def recipes() -> list[str]:
    """Names of the studies that come with Repscope."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load(name: str) -> Study:
    """The study in the file `name`, or the recipe of that name.

    Raises `UsageError` where there is none or where a field is wrong; the message names the field.
    """
    path = Path(name)
    if not path.is_file() and name in recipes():
        path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(recipes())
        raise UsageError(
            "a study file or the name of a recipe",
            f"no file {name!r}{_meant(name, recipes())}",
            f"Recipes: {known}. `repscope init {recipes()[0]}` writes one as a file to start from.",
        )
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Reader)
    except OSError as error:
        raise UsageError(f"to read {path}", error.strerror or str(error), "Give yourself the right to.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} to be plain YAML without tags", _spot(error), "Correct it at that place.") from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise UsageError(f"{path} to hold fields", found, "Begin with `study: <name>`.")
    try:
        return Study.model_validate(document)
    except ValidationError as error:
        messages = [_message(entry) for entry in error.errors(include_url=False)]
        count = "a mistake" if len(messages) == 1 else f"{len(messages)} mistakes"
        raise UsageError(
            f"{path} to be a study",
            f"{count}: {'; '.join(messages)}",
            "docs/reference/study.md lists all fields.",
        ) from error


def _spot(error: Exception) -> str:
    """What is wrong with a file, and where, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"at line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _message(error: Any) -> str:
    """One validation error as a person reads it."""
    where = _field_path(error["loc"])
    if error["type"] == "extra_forbidden":
        *parent, name = error["loc"]
        return f"unknown field {where!r}{_meant(str(name), _fields(Study, tuple(parent)))}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] != "value_error" and isinstance(error["input"], str | int | float | bool | None):
        message += f", not {error['input']!r}"
    return f"{where}: {message[0].lower()}{message[1:]}" if where else message


def _field_path(where: Sequence[str | int]) -> str:
    """Where an error stands in the file.

    Fields of an encoder's source are written beside its other fields, those of a decoder below no name of its kind, and
    questions of the user's own beside the others.
    """
    pieces = [str(piece) for piece in where]
    if pieces[:1] == ["decoder"] and DECODERS.keys() & pieces[1:2]:
        del pieces[1]
    if pieces[:1] == ["encoders"] and pieces[2:3] == ["source"]:
        del pieces[2:4]
    if pieces[:2] == ["questions", "own"]:
        del pieces[1]
    return ".".join(pieces)


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _fields(model: type[BaseModel], where: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the model that stands at `where` inside another."""
    models = [model]
    for piece in where:
        inner = [m.model_fields[piece].annotation for m in models if isinstance(piece, str) and piece in m.model_fields]
        if inner:
            models = [found for annotation in inner for found in _models(annotation)]
        elif DECODERS.get(str(piece)) in models:
            models = [DECODERS[str(piece)]]
        # Another piece that is no field is a key of a dict or the tag of a union: the models stay.
    return sorted({name for m in models for name in m.model_fields})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, dict, list, tuple):
        for inner in get_args(annotation):
            yield from _models(inner)
