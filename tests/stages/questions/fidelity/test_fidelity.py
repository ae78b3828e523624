"""Fidelity from samples that are painted by hand: real scenes pass, noise does not, and adding it changes no probe."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.graph import graph_of
from pipeline.study import load
from stages.contract import Estimate
from stages.encoders.spec import Untrained
from stages.errors import InputError
from stages.images.sets import open_images
from stages.questions.answers import read
from stages.questions.asks.stage import Sources
from stages.questions.drawing import taps as styles
from stages.questions.fidelity.section import section
from stages.questions.fidelity.stage import Fidelity
from stages.questions.format import Row, load_rows
from tests.artifacts import MemoryArtifact, run_stage
from tests.finished import MICRO
from tests.stages.questions.painters import (
    ARCHITECTURE,
    EVERYTHING,
    PREPROCESSING,
    SPECS,
    World,
    embedded,
    samples,
)

TAPS = ("small:backbone", "small:projector")
STAGE = Fidelity(reference="raw:backbone")
COUNT, EACH = 30, 4


@pytest.fixture(scope="module")
def study() -> World:
    found = embedded({**SPECS, "raw": Untrained(architecture=ARCHITECTURE, preprocessing=PREPROCESSING, seed=7)})
    return World(found | {"reference.raw": found.pop("embeddings.raw")})


@pytest.fixture(scope="module")
def conditions(study: World) -> MemoryArtifact:
    return study.ask(Sources(taps=TAPS, count=COUNT))


@pytest.fixture(scope="module")
def answer(study: World, conditions: MemoryArtifact) -> MemoryArtifact:
    """The backbone's samples are scenes, those of the projector are noise."""
    painted = study.paint(conditions, dict.fromkeys(TAPS, EVERYTHING), EACH)
    found = open_images(painted)
    images = np.array(found.decode(range(found.count), 32))
    half = COUNT * EACH
    images[half:] = np.random.Generator(np.random.Philox(1)).integers(0, 256, images[half:].shape, dtype=np.uint8)
    return run_stage(STAGE, study.artifacts | {"conditions": conditions, "samples": samples(images, conditions, EACH)})


def rows(answer: MemoryArtifact, metric: str) -> dict[str, Row]:
    found = load_rows(answer.objects["results.parquet"])
    return {f"{r.encoder}:{r.tap}": r for r in found if r.metric == metric}


def test_scenes_are_as_near_as_images_and_noise_is_not(answer: MemoryArtifact) -> None:
    kid, gap = rows(answer, "kid"), rows(answer, "kid - images")
    assert gap["small:backbone"].low <= 0 <= gap["small:backbone"].high
    assert gap["small:projector"].low > 0
    assert kid["small:projector"].value > 10 * abs(kid["small:backbone"].value)
    precision = rows(answer, "precision - images")
    assert precision["small:backbone"].verdict == "AS IMAGES"
    assert precision["small:projector"].verdict == "BELOW IMAGES"
    assert rows(answer, "recall - images")["small:projector"].verdict == "BELOW IMAGES"
    assert rows(answer, "precision")["small:projector"].value < 0.1


def test_the_numbers_of_images_are_those_of_the_sources_whatever_the_tap(answer: MemoryArtifact) -> None:
    for metric in ("kid of images", "precision of images", "recall of images"):
        first, second = rows(answer, metric).values()
        assert (first.value, first.low, first.high) == (second.value, second.low, second.high)
    assert rows(answer, "kid of images")["small:backbone"].n == COUNT


def test_too_few_images_are_refused(study: World, conditions: MemoryArtifact) -> None:
    painted = study.paint(conditions, dict.fromkeys(TAPS, EVERYTHING), EACH)
    many = STAGE.model_copy(update={"neighbours": 40})
    with pytest.raises(InputError, match="expected 82 held-out images or more that are no sources"):
        run_stage(many, study.artifacts | {"conditions": conditions, "samples": painted})


def test_the_section_has_a_line_for_each_tap_beside_images(answer: MemoryArtifact) -> None:
    shown = read("fidelity", answer)
    found = section(shown, {}, styles.assign_styles(TAPS, {"small"}, {}))
    (part,) = found.parts
    assert "raw:backbone" in part.html
    assert part.html.count("BELOW IMAGES") == 3
    assert len(found.headlines) == 2


def test_a_study_that_asks_it_trains_and_paints_nothing_anew(tmp_path: Path) -> None:
    written = tmp_path / "study.yaml"
    other = "encoders:\n  other: {kind: untrained, architecture: {widths: [8, 16], blocks: [1, 1]}}\n"
    asked = 'faithfulness: {}\n  fidelity: {reference: "other:backbone"}'
    written.write_text(MICRO.read_text().replace("encoders:\n", other).replace("faithfulness: {}", asked))
    before = {step.name: step for step in graph_of(load(str(MICRO)))}
    after = {step.name: step for step in graph_of(load(str(written)))}
    assert after.keys() - before.keys() == {"reference.other", "fidelity"}
    assert {name for name, step in before.items() if step != after[name]} == {"report"}


def test_what_it_costs_grows_with_the_samples() -> None:
    few, many = (STAGE.estimate({"samples": Estimate(rows=n, size_bytes=0, cpu_seconds=0)}) for n in (100, 10_000))
    assert many.cpu_seconds > few.cpu_seconds + 30
