"""The graph: a study as steps in the order of the data.

A question declares what is painted for it and what its answer reads (`stages.questions.question`); none is known here
by its name. Two steps with the same stage, fields and inputs have one key and are one artifact, so questions with the
same ask share its conditions and samples. Taps are asked about and painted in groups, the decoder's own and one for
each extension, so that an extension leaves every step before the answers as it was.
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
from stages.pretrain.stage import Checkpoint, Pretrain
from stages.questions.asks.stage import of_group
from stages.questions.question import (
    ASKED,
    CONDITIONS,
    ENCODERS,
    HALFWAY,
    PROBES,
    READERS,
    SAMPLE_EMBEDDINGS,
    SAMPLES,
    SEEDS,
    Ask,
    AskStage,
    Question,
)
from stages.report.stage import OwnSection, Report
from stages.samples.stage import PUBLISHED, Samples


class _Graph:
    """Steps being wired, in order."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, name: str, stage: Stage, inputs: Mapping[str, str]) -> str:
        """Appends a step and returns its name; its inputs must stand before it."""
        known = {step.name for step in self.steps}
        if name in known:
            raise UsageError("a name of its own for every step", f"two steps {name!r}", "Rename the question.")
        assert set(inputs.values()) <= known, f"{name} reads what does not stand before it"
        self.steps.append(Step(name, stage, dict(inputs)))
        return name

    def share(self, name: str, stage: Stage, inputs: Mapping[str, str]) -> str:
        """Appends a step, unless the very same one is there already; returns its name."""
        if Step(name, stage, dict(inputs)) in self.steps:
            return name
        return self.add(name, stage, inputs)


def graph_of(study: Study) -> list[Step]:
    """The steps of a study, each after those it reads."""
    graph = _Graph()
    encoders = encoders_of(study)
    # Imported encoders are first, so that what is wrong with one is reported before an image is read.
    encoder_steps = {
        name: graph.add(f"encoder.{name}", encoder, {})
        for name, encoder in encoder_steps_of(study).items()
        if isinstance(encoder, Imported)
    }
    published = isinstance(study.decoder, ReleasedDecoder)
    if published:
        # A published decoder must fit its encoder, which is found out as early.
        name = study.decoder.taps[0].partition(":")[0]
        decoder = graph.add("decoder", study.decoder, {"encoder": encoder_steps[name]} if name in encoder_steps else {})
    listing = graph.add("listing", study.dataset.listing, {})
    # A listing says without credentials where it was read from.
    packing = study.dataset.shards
    packing = (
        packing
        if packing.source
        else packing.model_copy(update={"source": study.dataset.listing.source.model_dump(mode="json")})
    )
    shards = graph.add("shards", packing, {"listing": listing})
    for name, encoder in encoder_steps_of(study).items():
        if isinstance(encoder, Pretrain):
            encoder_steps[name] = graph.add(f"encoder.{name}", encoder, {"shards": shards})
        elif isinstance(encoder, Checkpoint):
            training, _ = study.checkpoints()[name]
            encoder_steps[name] = graph.add(f"encoder.{name}", encoder, {"training": encoder_steps[training]})

    def embed(step: str, name: str, images: str, views: tuple[str, ...]) -> str:
        weights = {"encoder": encoder_steps[name]} if name in encoder_steps else {}
        stage = Embeddings(encoder=spec_of(encoders[name]), views=views)
        return graph.share(step, stage, {"images": images} | weights)

    studied = [name for name in encoders if name not in references_of(study)]
    embedded = {name: embed(f"embeddings.{name}", name, shards, ("plain", "flip")) for name in studied}
    groups = [_Group(taps, encoders, encoder_steps, embedded) for taps in groups_of(study)]
    own = groups[0]
    weights = {f"encoder.{name}": step for name, step in encoder_steps.items()}
    readers = graph.add("readers", study.readers, {"shards": shards})
    references = {name: embed(f"reference.{name}", name, shards, ("plain",)) for name in references_of(study)}
    # Questions without probes compare images by a reference, and read no attribute of it.
    probed = [question for question in study.questions.asked().values() if PROBES in question.reads]
    taps = tuple(dict.fromkeys(tap for question in probed for tap in question.reference_taps()))
    read_by = {f"reference.{name}": references[name] for name in dict.fromkeys(tap.partition(":")[0] for tap in taps)}
    probing = study.probes.model_copy(update={"references": taps}) if taps else study.probes
    probes = {PROBES: graph.add("probes", probing, {"shards": shards} | own.tables | read_by)}
    if not published:
        decoder = graph.add("decoder", study.decoder, {"shards": shards} | own.tables)
    decoders = {"decoder": decoder}
    trained_again = {
        seed: graph.add(
            f"decoder-seed-{seed}", study.decoder.model_copy(update={"seed": seed}), {"shards": shards} | own.tables
        )
        for seed in study.decoder_seeds
    }
    for number, extension in enumerate(study.extensions, 1):
        before = {table for group in groups[:number] for table in group.tables}
        if unread := {name: step for name, step in groups[number].tables.items() if name not in before}:
            probes[of_group(PROBES, number)] = graph.add(
                of_group("probes", number), probing, {"shards": shards} | unread | read_by
            )
        reads = {"shards": shards, "decoder": decoder} | own.tables | groups[number].tables
        decoders[of_group("extension", number)] = graph.add(of_group("extension", number), extension, reads)

    sampling = samples_of(study)
    painters = list(decoders.values())
    results: dict[str, str] = {}

    def put_ask(painted: str, settings: AskStage, number: int) -> str:
        """The step that writes an ask's conditions at one tap group."""
        group = groups[number]
        filled = {"taps": group.taps, "size": study.decoder.size}
        return graph.share(
            of_group(f"ask.{painted}", number),
            settings.model_copy(
                update={name: value for name, value in filled.items() if name in type(settings).model_fields}
            ),
            {"shards": shards} | group.tables | group.weights,
        )

    def answers(ask: Ask, number: int) -> bool:
        return number == 0 or groups[number].answers(ask)

    def sample(name: str, question: Question, ask: Ask, number: int) -> dict[str, str]:
        """What is painted for a question at one tap group, as inputs of its answer.

        An ask that the question sets itself has steps of the question's name.
        """
        group, reads, settings = groups[number], question.reads, question.ask_settings()
        painted = ask.name if settings is None else name
        conditions = put_ask(painted, settings or study.ask_settings(ask.stage), number)
        inputs = {"conditions": conditions, "decoder": painters[number]}
        step = of_group(f"samples.{painted}", number)
        samples = graph.share(step, sampling, inputs)
        found = {of_group(CONDITIONS, number): conditions, of_group(SAMPLES, number): samples}
        if SAMPLE_EMBEDDINGS in reads:
            for encoder in group.seeing:
                embeddings = embed(f"{step}.{encoder}", encoder, samples, ("plain",))
                found[f"{of_group(SAMPLE_EMBEDDINGS, number)}.{encoder}"] = embeddings
        if SEEDS in reads and number == 0:
            for place, (seed, step_of_seed) in enumerate(trained_again.items(), 1):
                again = {"conditions": conditions, "decoder": step_of_seed}
                found[f"{SEEDS}.{place}"] = graph.share(f"samples.{painted}-seed-{seed}", sampling, again)
        if HALFWAY in reads and not published:
            halfway = sampling.model_copy(update={"snapshot": "halfway"})
            found[of_group(HALFWAY, number)] = graph.share(of_group(f"samples.{ask.halfway}", number), halfway, inputs)
        return found

    every_ask = [question.ask for question in study.questions.asked().values()]
    for asked, question in study.questions.asked().items():
        inputs = {"shards": shards} | {name: step for group in groups for name, step in group.tables.items()}
        for number in range(len(groups)):
            if question.ask is not None and answers(question.ask, number):
                inputs |= sample(asked, question, question.ask, number)
            for ask in question.reads_asks:
                if ask in every_ask and answers(ask, number):
                    conditions = put_ask(ask.name, study.ask_settings(ask.stage), number)
                    inputs[of_group(f"{ASKED}.{ask.name}", number)] = conditions
        inputs |= {READERS: readers} if READERS in question.reads else {}
        inputs |= probes if PROBES in question.reads else {}
        if ENCODERS in question.reads:
            inputs |= {name: step for group in groups for name, step in group.weights.items()}
        for name in {tap.partition(":")[0] for tap in question.reference_taps()}:
            inputs[f"reference.{name}"] = references[name]
            inputs |= {f"encoder.{name}": encoder_steps[name]} if name in encoder_steps else {}
        results[f"results.{asked}"] = graph.add(asked, question, inputs)
    sections = tuple(OwnSection(name=name, kind=question.kind) for name, question in study.questions.own.items())
    graph.add(
        "report",
        Report(study=study.study, title=study.title, own=sections),
        results | weights | {"shards": shards, "readers": readers} | probes | decoders,
    )
    return graph.steps


class _Group:
    """Taps that are asked about and painted together, and the steps that they need."""

    def __init__(
        self,
        taps: tuple[str, ...],
        encoders: Mapping[str, Encoder],
        encoder_steps: Mapping[str, str],
        embedded: Mapping[str, str],
    ) -> None:
        named = {tap.partition(":")[0] for tap in taps}
        self.taps = taps
        self.tables = {f"embeddings.{name}": step for name, step in embedded.items() if name in named}
        self.weights = {f"encoder.{name}": step for name, step in encoder_steps.items() if name in named}
        oracles = {name for name in named if isinstance(encoders[name], Oracle)}
        # An oracle reads the truth, which a sample does not have.
        self.seeing = [name for name in encoders if name in named - oracles]
        self._reads_pixels = bool(self.seeing) or any(tap.partition(":")[2] == "pixels" for tap in taps)

    def answers(self, ask: Ask) -> bool:
        """Whether the group has a tap that the ask is about."""
        if ask.networks_only:
            return bool(self.seeing)
        return self._reads_pixels or not ask.pixels_only


def samples_of(study: Study) -> Samples:
    """How the study samples: fields that it does not set are as its kind of decoder needs them.

    Raises UsageError where that cannot be done.
    """
    needed: Mapping[str, Any] = {}
    if isinstance(study.decoder, ReleasedDecoder | Rcdm):
        needed = SAMPLING
    elif study.decoder.training.sketch_images == 0:
        needed = WITHOUT_SKETCH
    unset = {name: value for name, value in needed.items() if name not in study.samples.model_fields_set}
    sampling = study.samples.model_copy(update=unset)
    if sampling.sampler == PUBLISHED:
        if not isinstance(study.decoder, ReleasedDecoder | Rcdm):
            raise UsageError(
                "`sampler: published` beside a decoder of kind: released or architecture: adm",
                "a decoder of noise levels, which has neither its steps nor a learned variance",
                "Leave out samples.sampler, or choose ancestral.",
            )
        if given := sorted({"sigma_min", "sigma_max", "rho"} & study.samples.model_fields_set):
            raise UsageError(
                "no noise levels beside `sampler: published`, which takes those of the decoder's schedule",
                ", ".join(f"samples.{name}" for name in given),
                "Leave it out; `steps` is how many of them are taken.",
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
            "Lower the one or raise the other; docs/guide/decoders.md says how they go with the decoder.",
        )
    return sampling


def groups_of(study: Study) -> list[tuple[str, ...]]:
    """The tap groups: the decoder's own taps, then those of each extension."""
    return [study.decoder.taps, *(extension.taps for extension in study.extensions)]


def references_of(study: Study) -> list[str]:
    """The encoders by which questions read images and which are not under study."""
    taps = (tap for question in study.questions.asked().values() for tap in question.reference_taps())
    return list(dict.fromkeys(tap.partition(":")[0] for tap in taps))


def encoders_of(study: Study) -> dict[str, Encoder]:
    """The encoders that the taps of the decoder, of its extensions and of references name."""
    used = {tap.partition(":")[0] for taps in groups_of(study) for tap in taps} | {*references_of(study)}
    return {name: encoder for name, encoder in study.named_encoders().items() if name in used}


def encoder_steps_of(study: Study) -> dict[str, Pretrain | Checkpoint | Imported]:
    """The encoders that are steps of their own: trained here, kept by such a training, or imported.

    A training comes before its checkpoints, also where no tap is its own.
    """
    checkpoints, used = study.checkpoints(), encoders_of(study)
    trainings = {checkpoints[name][0] for name in used if name in checkpoints}
    found: dict[str, Pretrain | Checkpoint | Imported] = {}
    for name, encoder in study.named_encoders().items():
        if name in checkpoints and name in used:
            found[name] = Checkpoint(at=checkpoints[name][1])
        elif isinstance(encoder, Pretrain | Imported) and (name in trainings or name in used):
            found[name] = encoder
    return found


def spec_of(encoder: Encoder) -> EncoderSpec:
    """The encoder as a setting of the embeddings stage; one that is a step of its own comes as an input instead."""
    return Pretrained() if isinstance(encoder, Pretrain | Imported) else encoder
