"""Memorisation: its rule in every branch, and an answer on samples of which it is known whether they are copies."""

import numpy as np
import pytest

from stages.encoders.spec import Oracle
from stages.images.sets import open_images
from stages.questions.answers import read
from stages.questions.asks.stage import Sources
from stages.questions.drawing import taps as styles
from stages.questions.format import load_rows
from stages.questions.memorisation import rules
from stages.questions.memorisation.section import section
from stages.questions.memorisation.stage import Memorisation
from stages.readers.data import rows_of
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import SIZE, World, embedded, samples

NAN = float("nan")
COPIES, FREE = "oracle:attributes", "oracle:pixels"


@pytest.mark.parametrize(
    ("low", "high", "control", "searched", "verdict"),
    [
        (0.7, 0.9, (0.95, 1.05), 1.0, rules.MEMORISED),
        (0.95, 1.05, (0.95, 1.05), 1.0, rules.NOT_MEMORISED),
        (1.05, 1.2, (0.95, 1.05), 1.0, rules.NOT_MEMORISED),
        (0.85, 1.05, (0.95, 1.05), 1.0, rules.CANNOT_TELL),
        (0.9, 0.95, (0.95, 1.05), 1.0, rules.MEMORISED),
        # With many sources an interval excludes 1 by what the draw of the images alone does.
        (0.97, 0.99, (0.95, 1.05), 1.0, rules.CANNOT_TELL),
        # Half of the train images were not searched, where as many copies may have gone unseen.
        (0.94, 1.05, (0.95, 1.05), 0.5, rules.CANNOT_TELL),
        (0.7, 0.9, (0.6, 0.89), 1.0, rules.CANNOT_TELL),
        (0.95, 1.05, (1.11, 1.2), 1.0, rules.CANNOT_TELL),
        (0.95, 1.05, (NAN, NAN), 1.0, rules.CANNOT_TELL),
        (NAN, NAN, (0.95, 1.05), 1.0, rules.CANNOT_TELL),
    ],
)
def test_the_verdict(low: float, high: float, control: tuple[float, float], searched: float, verdict: str) -> None:
    assert rules.judge(low, high, control, searched)[0] == verdict


@pytest.fixture(scope="module")
def answer() -> MemoryArtifact:
    """At one tap the samples are train images but for some noise; at the other all are drawn anew."""
    tables = embedded({"oracle": Oracle()})
    study = World(tables)
    conditions = study.ask(Sources(taps=(COPIES, FREE), count=40))
    painted = study.paint(conditions, {COPIES: (), FREE: ("hue", "x")}, per_source=3)
    images = open_images(painted)
    pixels = np.concatenate([np.asarray(images.read_part(part)[1]) for part in range(images.parts)]).copy()
    train = rows_of(tables["shards"], "train")
    copied = open_images(tables["shards"]).decode(np.sort(train[:120]), SIZE).astype(np.int64)
    noise = np.random.Generator(np.random.Philox(1)).normal(0, 4, copied.shape)
    # Mirror images are copies too.
    pixels[:120] = np.clip(copied + noise, 0, 255).astype(np.uint8)[:, :, ::-1]
    return run_stage(
        Memorisation(shown=5),
        {"shards": tables["shards"], "conditions": conditions, "samples": samples(pixels, conditions, 3)},
    )


def test_copies_are_found_and_free_samples_are_not_taken_for_them(answer: MemoryArtifact) -> None:
    rows = load_rows(answer.objects["results.parquet"])
    control, copies, free = (row for row in rows if row.metric.startswith("nearest train / nearest held-out"))
    assert control.value == pytest.approx(1, abs=0.1)
    assert copies.verdict == rules.MEMORISED
    assert copies.value < 0.85
    assert free.verdict != rules.MEMORISED
    assert free.value == pytest.approx(1, abs=0.1)
    assert copies.unit == free.unit == control.unit


def test_the_page_shows_the_copy_beside_what_it_copies(answer: MemoryArtifact) -> None:
    found = read("memorisation", answer)
    figure = found.kind("nearest")[0]
    sample, train = figure.tiles[0, 1].astype(float), figure.tiles[0, 2, :, ::-1].astype(float)
    assert np.abs(sample - train).mean() < 6
    shown = section(found, {}, styles.assign_styles([COPIES, FREE], set(), {}))
    assert "paint images that it remembers" in shown.parts[0].html
    assert {finding.encoder: finding.outcome for finding in shown.findings}[COPIES] == "shown"
