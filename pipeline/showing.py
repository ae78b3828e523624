"""Painting images that are given, by what a finished study left in its store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError, require_run
from pipeline.graph import encoder_steps_of, encoders_of, graph_of, samples_of, spec_of

if TYPE_CHECKING:
    from pipeline.reading import OpenStudy
    from pipeline.study import Study
    from stages.show.shown import Material, Networks, Shown

    Show = Callable[[Mapping[str, bytes], Sequence[str]], Shown]


def files(paths: Sequence[Path]) -> dict[str, bytes]:
    """The bytes of image files, each once, by name; by path where two have one name. UsageError where there is none."""
    found = list(dict.fromkeys(paths))
    for path in found:
        if not path.is_file():
            raise UsageError("an image file", f"no file {str(path)!r}", "Name an image: PNG or JPEG.")
    names = [path.name for path in found]
    return {path.name if names.count(path.name) == 1 else str(path): path.read_bytes() for path in found}


def show(
    study: "Study",
    done: "OpenStudy",
    images: Mapping[str, bytes],
    *,
    taps: Sequence[str],
    samples: int,
    seed: int,
    guidance: float,
) -> "Shown":
    """Paints `images`, by name, with the decoder and the encoders of a finished study; see `stages.show.shown.show`."""
    require_run()
    from cluster.resources import device
    from stages.show.shown import Networks

    return shower(study, Networks(material(study, done), device()), samples, seed, guidance)(images, taps)


def material(study: "Study", done: "OpenStudy") -> "Material":
    """What is read of a finished study to paint images that are given."""
    from stages.show.shown import Material

    decoders = [step.name for step in graph_of(study) if step.name.split(".")[0] in ("decoder", "extension")]
    specs = {name: spec_of(encoder) for name, encoder in encoders_of(study).items()}
    return Material(
        decoders=[done.artifact(name) for name in decoders],
        specs=specs,
        encoders={name: done.artifact(f"encoder.{name}") for name in encoder_steps_of(study)},
        embeddings={name: done.artifact(f"embeddings.{name}") for name in specs if f"embeddings.{name}" in done.refs()},
        shards=done.artifact("shards"),
        scaled=study.dataset.shards.decode == "scaled",
    )


def shower(study: "Study", networks: "Networks", samples: int, seed: int, guidance: float) -> "Show":
    """Paints images, by name, at taps (none: all), `samples` of each, with the sampler of the study's settings."""
    from stages.samples.paint import painter
    from stages.show.shown import show as paint

    settings = samples_of(study).model_copy(update={"per_source": samples, "seed": seed})
    how = f"{settings.sampler} in {settings.steps} steps, noise of seed {seed}"
    how += "" if guidance == 1.0 else f", guidance {guidance:g}, which no measurement uses"
    chosen = painter(settings, guidance)
    return lambda images, taps: paint(images, networks, taps, chosen, f"Study {study.study}; {how}.")
