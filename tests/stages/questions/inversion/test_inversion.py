"""Inversion: the fit, the rule in every branch, and an answer on samples that are painted by hand."""

import pytest
import torch

from stages.contract import Estimate
from stages.encoders.spec import Untrained
from stages.errors import InputError
from stages.questions.answers import read
from stages.questions.asks.stage import Sources
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows
from stages.questions.inversion import verdicts
from stages.questions.inversion.fitting import fit, total_variation
from stages.questions.inversion.section import section
from stages.questions.inversion.stage import Inversion
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import ARCHITECTURE, EVERYTHING, PREPROCESSING, SPECS, World, embedded

TAPS = ("small:backbone", "oracle:pixels")
STAGE = Inversion(reference="raw:backbone", count=8, steps=60, weights=(0.0, 0.3), shown=3)


def test_total_variation_is_the_mean_step_between_neighbours() -> None:
    ramp = torch.arange(4.0).repeat(1, 3, 4, 1)
    assert total_variation(ramp).tolist() == [1.0]
    assert total_variation(torch.full((2, 3, 4, 4), 0.7)).tolist() == [0.0, 0.0]


def test_a_fit_reaches_its_target_and_with_a_weight_gives_up_some_of_that_for_smoothness() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(3 * 8 * 8, 6, generator=generator) / 6
    images = torch.rand(4, 3, 8, 8, generator=generator)

    def embed(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ matrix

    starts = torch.randn(4, 3, 8, 8, generator=generator)
    sharp, smooth = (fit(embed, embed(images), starts, 200, weight) for weight in (0.0, 1.0))
    assert (embed(sharp) - embed(images)).abs().max() < 0.02
    assert total_variation(smooth).max() < 0.5 * total_variation(sharp).min()
    assert ((sharp >= 0) & (sharp <= 1)).all()
    alone = fit(embed, embed(images)[1:2], starts[1:2], 200, 0.0)
    assert torch.allclose(alone, sharp[1:2], atol=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "own", "verdict"),
    [
        (0.1, 0.3, -0.2, verdicts.SAMPLES),
        (-0.3, -0.1, -0.2, verdicts.INVERSION),
        (-0.1, 0.3, -0.2, verdicts.CANNOT_TELL),
        # With many sources an interval excludes 0 by any difference.
        (0.004, 0.006, -0.2, verdicts.CANNOT_TELL),
        (-0.006, -0.004, -0.2, verdicts.CANNOT_TELL),
        (0.1, 0.3, -0.04, verdicts.CANNOT_TELL),
        (0.1, 0.3, 0.0, verdicts.CANNOT_TELL),
        (float("nan"), float("nan"), -0.2, verdicts.CANNOT_TELL),
        (0.1, 0.3, float("nan"), verdicts.CANNOT_TELL),
    ],
)
def test_the_rule_in_every_branch(low: float, high: float, own: float, verdict: str) -> None:
    assert verdicts.judge(low, high, own) == verdict


@pytest.fixture(scope="module")
def study() -> World:
    found = embedded({**SPECS, "raw": Untrained(architecture=ARCHITECTURE, preprocessing=PREPROCESSING, seed=7)})
    return World(found | {"reference.raw": found.pop("embeddings.raw")})


def answered(study: World, taps: tuple[str, ...], keeps: tuple[str, ...], stage: Inversion = STAGE) -> MemoryArtifact:
    conditions = study.ask(Sources(taps=taps, count=10))
    painted = study.paint(conditions, dict.fromkeys(taps, keeps), per_source=2)
    return run_stage(stage, study.artifacts | {"conditions": conditions, "samples": painted})


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_samples_that_are_the_source_are_nearer_than_what_gradients_find(study: World) -> None:
    answer = answered(study, TAPS, EVERYTHING)
    distances, own = rows(answer, "distance"), rows(answer, "own distance")
    assert distances["small:backbone", "samples"].value < 0.05
    assert own["small:backbone", "inverted"].value < 0.3
    assert distances["small:backbone", "inverted"].value > own["small:backbone", "inverted"].value
    gap = rows(answer, "inverted - samples")["small:backbone", ""]
    assert gap.verdict == "SAMPLES NEARER"
    assert gap.value == pytest.approx(
        distances["small:backbone", "inverted"].value - distances["small:backbone", "samples"].value
    )
    assert 0.5 < distances["small:backbone", "another image"].value < 1.6
    assert rows(answer, "weight")["small:backbone", "inverted"].value in (0.0, 0.3)
    assert rows(answer, "spread")["small:backbone", "samples"].value < 0.05
    assert distances["oracle:pixels", ""].why == "This tap has no gradient."
    shown = read("inversion", answer)
    (figure,) = shown.figures
    assert figure.tiles.shape == (3, 5, 32, 32, 3)
    found = section(shown, {}, styles.assign_styles(TAPS, {"small"}, {}))
    (part,) = found.parts
    assert "SAMPLES NEARER" in part.html
    assert len(found.headlines) == 1


def test_a_decoder_that_ignores_its_condition_does_not_win(study: World) -> None:
    gap = rows(answered(study, TAPS[:1], ()), "inverted - samples")["small:backbone", ""]
    assert gap.value > 0.5
    assert gap.verdict == "CANNOT TELL"


def test_taps_of_oracles_alone_are_refused(study: World) -> None:
    with pytest.raises(InputError, match="expected at least one tap of a network; found oracle:pixels"):
        answered(study, TAPS[1:], EVERYTHING)


def test_what_it_costs_grows_with_steps() -> None:
    upstream = {
        "embeddings.small": Estimate(rows=9, size_bytes=9, cpu_seconds=1),
        "encoder.small": Estimate(rows=9, size_bytes=9, cpu_seconds=1, image_seconds=1e-3),
    }
    few, many = (STAGE.model_copy(update={"steps": n}).estimate(upstream).cpu_seconds for n in (100, 1000))
    assert many - 5 == pytest.approx(10 * (few - 5))
