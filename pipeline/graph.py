"""The graph: a study as steps in the order of the data.

Two steps with the same stage, fields and inputs have one key and are one artifact, so questions that paint the same
conditions share their samples without knowing of each other. Taps are asked about and painted in groups, the decoder's
own and one for each extension, so that an extension leaves every step before the answers as it was.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import UsageError
from pipeline.step import Step
from pipeline.study import Encoder, Study
from stages.contract import Stage
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.spec import SAMPLING
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.spec import WITHOUT_SKETCH
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import EncoderSpec, Oracle, Pretrained
from stages.encoders.stage import Imported
from stages.pretrain.stage import Pretrain
from stages.questions.asks.stage import Sources, Transformed, of_group
from stages.report.stage import Report
from stages.samples.stage import PUBLISHED, Samples


class _Graph:
    """Steps being wired, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, name: str, stage: Stage, inputs: Mapping[str, str]) -> str:
        """Appends a step and returns its name; its inputs must stand before it."""
        known = {step.name for step in self.steps}
        assert name not in known, f"two steps are called {name}"
        assert set(inputs.values()) <= known, f"{name} reads what does not stand before it"
        self.steps.append(Step(name, stage, dict(inputs)))
        return name


def graph_of(study: Study) -> list[Step]:
    """The steps of a study, each after those it reads."""
    graph = _Graph()
    encoders = encoders_of(study)
    # First of all: what is wrong with an encoder is said before an image is read.
    made = {
        name: graph.add(f"encoder.{name}", encoder, {})
        for name, encoder in made_of(study).items()
        if isinstance(encoder, Imported)
    }
    published = isinstance(study.decoder, ReleasedDecoder)
    if published:
        # And with a published decoder, which must fit its encoder.
        name = study.decoder.taps[0].partition(":")[0]
        decoder = graph.add("decoder", study.decoder, {"encoder": made[name]} if name in made else {})
    listing = graph.add("listing", study.dataset.listing, {})
    shards = graph.add("shards", study.dataset.shards, {"listing": listing})
    made |= {
        name: graph.add(f"encoder.{name}", encoder, {"shards": shards})
        for name, encoder in made_of(study).items()
        if name not in made
    }

    def embed(step: str, name: str, images: str, views: tuple[str, ...]) -> str:
        weights = {"encoder": made[name]} if name in made else {}
        stage = Embeddings(encoder=spec_of(encoders[name]), views=views)
        return graph.add(step, stage, {"images": images} | weights)

    embedded = {name: embed(f"embeddings.{name}", name, shards, ("plain", "flip")) for name in encoders}
    groups = [_Group(taps, encoders, made, embedded) for taps in groups_of(study)]
    own = groups[0]
    weights = {f"encoder.{name}": step for name, step in made.items()}
    readers = graph.add("readers", study.readers, {"shards": shards})
    probes = {"probes": graph.add("probes", study.probes, {"shards": shards} | own.tables)}
    if not published:
        decoder = graph.add("decoder", study.decoder, {"shards": shards} | own.tables)
    decoders = {"decoder": decoder}
    for number, extension in enumerate(study.extensions, 1):
        before = {table for group in groups[:number] for table in group.tables}
        if unread := {name: step for name, step in groups[number].tables.items() if name not in before}:
            probes[of_group("probes", number)] = graph.add(
                of_group("probes", number), study.probes, {"shards": shards} | unread
            )
        reads = {"shards": shards, "decoder": decoder} | own.tables | groups[number].tables
        decoders[of_group("extension", number)] = graph.add(of_group("extension", number), extension, reads)

    asked, sampling = study.questions, samples_of(study)
    results: dict[str, str] = {}

    def ask(name: str, stage: Sources | Transformed, number: int) -> str:
        group = groups[number]
        told = stage.model_copy(update={"taps": group.taps})
        return graph.add(of_group(name, number), told, {"shards": shards} | group.tables | group.weights)

    def paint(name: str, number: int, conditions: str, settings: Samples) -> str:
        painter = list(decoders.values())[number]
        return graph.add(of_group(name, number), settings, {"conditions": conditions, "decoder": painter})

    def answer(name: str, question: Stage, inputs: dict[str, str]) -> None:
        tables = {name: step for group in groups for name, step in group.tables.items()}
        results[f"results.{name}"] = graph.add(name, question, {"shards": shards} | tables | inputs)

    if asked.kept is not None or asked.faithfulness is not None:
        painted: dict[str, str] = {}
        rising: dict[str, str] = {}
        for number, group in enumerate(groups):
            conditions = ask("ask.sources", study.sources, number)
            samples = paint("samples.sources", number, conditions, sampling)
            painted |= {of_group("conditions", number): conditions, of_group("samples", number): samples}
            for name in group.seeing:
                step = embed(f"{of_group('samples.sources', number)}.{name}", name, samples, ("plain",))
                painted[f"{of_group('sample_embeddings', number)}.{name}"] = step
            if asked.kept is not None and not published:
                halfway = sampling.model_copy(update={"snapshot": "halfway"})
                early = paint("samples.halfway", number, conditions, halfway)
                rising[of_group("halfway_samples", number)] = early
        if asked.kept is not None:
            answer("kept", asked.kept, painted | {"readers": readers} | probes | rising)
        if asked.faithfulness is not None:
            answer("faithfulness", asked.faithfulness, painted)
    if asked.invariance is not None:
        painted = {}
        for number, group in enumerate(groups):
            if number == 0 or group.reads_pixels:
                moved = ask("ask.invariance", study.transformed, number)
                samples = paint("samples.invariance", number, moved, sampling)
                painted |= {of_group("conditions", number): moved, of_group("samples", number): samples}
        answer("invariance", asked.invariance, painted)
    graph.add(
        "report",
        Report(study=study.study, title=study.title),
        results | weights | {"shards": shards, "readers": readers} | probes | decoders,
    )
    return graph.steps


class _Group:
    """Taps that are asked about and painted together, and the steps that they rest on."""

    def __init__(
        self,
        taps: tuple[str, ...],
        encoders: Mapping[str, Encoder],
        made: Mapping[str, str],
        embedded: Mapping[str, str],
    ) -> None:
        named = {tap.partition(":")[0] for tap in taps}
        self.taps = taps
        self.tables = {f"embeddings.{name}": step for name, step in embedded.items() if name in named}
        self.weights = {f"encoder.{name}": step for name, step in made.items() if name in named}
        oracles = {name for name in named if isinstance(encoders[name], Oracle)}
        # An oracle reads the truth, which a sample does not have.
        self.seeing = [name for name in encoders if name in named - oracles]
        self.reads_pixels = bool(self.seeing) or any(tap.partition(":")[2] == "pixels" for tap in taps)


def samples_of(study: Study) -> Samples:
    """How the study samples: what it does not say is as its kind of decoder needs it.

    Raises UsageError where that cannot be done.
    """
    needed: Mapping[str, Any] = {}
    if isinstance(study.decoder, ReleasedDecoder | Rcdm):
        needed = SAMPLING
    elif study.decoder.training.sketch_images == 0:
        needed = WITHOUT_SKETCH
    unsaid = {name: value for name, value in needed.items() if name not in study.samples.model_fields_set}
    sampling = study.samples.model_copy(update=unsaid)
    if sampling.sampler == PUBLISHED:
        if not isinstance(study.decoder, ReleasedDecoder | Rcdm):
            raise UsageError(
                "`sampler: published` beside a decoder of kind: released or architecture: adm",
                "a decoder of noise levels, which has neither its steps nor a learned variance",
                "Leave out samples.sampler, or choose ancestral.",
            )
        if said := sorted({"sigma_min", "sigma_max", "rho"} & study.samples.model_fields_set):
            raise UsageError(
                "no noise levels beside `sampler: published`, which takes those of the decoder's schedule",
                ", ".join(f"samples.{name}" for name in said),
                "Leave it out; `steps` says how many of them are taken.",
            )
        if sampling.steps > study.decoder.steps:
            raise UsageError(
                f"samples.steps of {study.decoder.steps} at most, as many as the decoder's schedule has",
                f"{sampling.steps}",
                "Lower it; its authors took 100 of 1000.",
            )
    elif sampling.sigma_min >= sampling.sigma_max:
        raise UsageError(
            "samples.sigma_min below samples.sigma_max",
            f"{sampling.sigma_min:g} and {sampling.sigma_max:g}",
            "Lower the one or raise the other; docs/study.md says how they go with the decoder.",
        )
    return sampling


def groups_of(study: Study) -> list[tuple[str, ...]]:
    """The tap groups: the decoder's own taps, then those of each extension."""
    return [study.decoder.taps, *(extension.taps for extension in study.extensions)]


def encoders_of(study: Study) -> dict[str, Encoder]:
    """The encoders that the taps of the decoder and of its extensions name."""
    used = {tap.partition(":")[0] for taps in groups_of(study) for tap in taps}
    return {name: encoder for name, encoder in study.encoders.items() if name in used}


def made_of(study: Study) -> dict[str, Pretrain | Imported]:
    """The encoders that are steps of their own: trained here, or imported."""
    return {name: encoder for name, encoder in encoders_of(study).items() if isinstance(encoder, Pretrain | Imported)}


def spec_of(encoder: Encoder) -> EncoderSpec:
    """What the embeddings stage is told: an encoder that is a step comes as an input, the others are settings."""
    return Pretrained() if isinstance(encoder, Pretrain | Imported) else encoder
