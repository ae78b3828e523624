"""The graph: a study as steps in the order of the data.

Two steps with the same stage, fields and inputs have one key and are one artifact, so questions that paint the same
conditions share their samples without knowing of each other.
"""

from collections.abc import Mapping

from pipeline.step import Step
from pipeline.study import Encoder, Study
from stages.contract import Stage
from stages.decoder.released_stage import Released
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import EncoderSpec, Oracle, Pretrained
from stages.encoders.stage import Imported
from stages.pretrain.stage import Pretrain
from stages.report.stage import Report
from stages.samples.stage import Samples


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

    tables = {f"embeddings.{name}": embed(f"embeddings.{name}", name, shards, ("plain", "flip")) for name in encoders}
    readers = graph.add("readers", study.readers, {"shards": shards})
    probes = graph.add("probes", study.probes, {"shards": shards} | tables)
    published = isinstance(study.decoder, Released)
    decoder = graph.add("decoder", study.decoder, {} if published else {"shards": shards} | tables)

    # An oracle reads the truth, which a sample does not have.
    seeing = [name for name, encoder in encoders.items() if not isinstance(encoder, Oracle)]

    weights = {f"encoder.{name}": step for name, step in made.items()}
    asked_about = {"taps": study.decoder.taps}
    asked, sampling = study.questions, samples_of(study)
    results: dict[str, str] = {}

    def answer(name: str, question: Stage, inputs: dict[str, str]) -> None:
        results[f"results.{name}"] = graph.add(name, question, {"shards": shards} | tables | inputs)

    if asked.kept is not None or asked.faithfulness is not None:
        ask = study.sources.model_copy(update=asked_about)
        conditions = graph.add("ask.sources", ask, {"shards": shards} | tables | weights)
        samples = graph.add("samples.sources", sampling, {"conditions": conditions, "decoder": decoder})
        painted = {"conditions": conditions, "samples": samples} | {
            f"sample_embeddings.{name}": embed(f"samples.sources.{name}", name, samples, ("plain",)) for name in seeing
        }
        if asked.kept is not None:
            rising = {}
            if not published:
                halfway = sampling.model_copy(update={"snapshot": "halfway"})
                early = graph.add("samples.halfway", halfway, {"conditions": conditions, "decoder": decoder})
                rising = {"halfway_samples": early}
            answer("kept", asked.kept, painted | {"readers": readers, "probes": probes} | rising)
        if asked.faithfulness is not None:
            answer("faithfulness", asked.faithfulness, painted)
    if asked.invariance is not None:
        transformed = study.transformed.model_copy(update=asked_about)
        moved = graph.add("ask.invariance", transformed, {"shards": shards} | tables | weights)
        samples = graph.add("samples.invariance", sampling, {"conditions": moved, "decoder": decoder})
        answer("invariance", asked.invariance, {"conditions": moved, "samples": samples})
    graph.add(
        "report",
        Report(study=study.study, title=study.title),
        results | weights | {"shards": shards, "readers": readers, "probes": probes, "decoder": decoder},
    )
    return graph.steps


def samples_of(study: Study) -> Samples:
    """How the study samples: what it does not say is as its kind of decoder needs it."""
    if not isinstance(study.decoder, Released):
        return study.samples
    unsaid = {name: value for name, value in Released.sampling.items() if name not in study.samples.model_fields_set}
    return study.samples.model_copy(update=unsaid)


def encoders_of(study: Study) -> dict[str, Encoder]:
    """The encoders that the decoder's taps name."""
    used = {tap.partition(":")[0] for tap in study.decoder.taps}
    return {name: encoder for name, encoder in study.encoders.items() if name in used}


def made_of(study: Study) -> dict[str, Pretrain | Imported]:
    """The encoders that are steps of their own: trained here, or imported."""
    return {name: encoder for name, encoder in encoders_of(study).items() if isinstance(encoder, Pretrain | Imported)}


def spec_of(encoder: Encoder) -> EncoderSpec:
    """What the embeddings stage is told: an encoder that is a step comes as an input, the others are settings."""
    return Pretrained() if isinstance(encoder, Pretrain | Imported) else encoder
