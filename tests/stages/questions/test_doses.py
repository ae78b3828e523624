"""Dose and response: which encoders differ in one augmentation alone, and slopes of which the truth is known."""

from typing import Any

import numpy as np
import pytest

from stages.attributes import Attribute
from stages.encoders.augment import Augmentations
from stages.questions.doses import CROP_FLOOR, Doses, doses, slope, slope_of_intervals
from stages.readers import score
from stages.readers.score import Interval

VALUE = Attribute(name="value", kind="scalar")
HUES = (0.0, 0.1, 0.25, 0.5)


def trained(method: str = "simclr", **augmentations: Any) -> dict[str, Any]:
    return {
        "augmentations": Augmentations(**augmentations).model_dump(mode="json"),
        "others": {"method": method, "training": {"num_images": 1000}},
    }


def test_encoders_that_differ_in_one_strength_alone_are_found_by_rising_strength() -> None:
    encoders = {f"hue_{hue:g}": trained(hue=hue) for hue in (0.5, 0.0, 0.1)}
    encoders |= {f"crop_{floor:g}": trained(crop_scale=(floor, 1.0)) for floor in (0.5, 1.0)}
    encoders["labels"] = trained("supervised", hue=0.3)
    assert doses(encoders) == [
        Doses(CROP_FLOOR, ("hue_0.1", "crop_0.5", "crop_1"), (0.2, 0.5, 1.0)),
        Doses("hue", ("hue_0", "hue_0.1", "hue_0.5"), (0.0, 0.1, 0.5)),
    ]
    assert doses({name: encoders[name] for name in ("hue_0", "hue_0.5", "labels")}) == []


def test_encoders_of_several_seeds_at_a_strength_count_each() -> None:
    encoders = {f"hue_{hue:g}_{seed}": trained(hue=hue) for hue in (0.0, 0.1, 0.5) for seed in (1, 2)}
    (found,) = doses(encoders)
    assert found.strengths == (0.0, 0.0, 0.1, 0.1, 0.5, 0.5)


def test_the_slope_of_kept_is_the_one_that_the_samplers_have_and_is_narrower_than_unpaired() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    truth, shared = rng.standard_normal(192), rng.standard_normal((192, 8))
    found = Doses("hue", tuple(f"hue_{hue:g}" for hue in HUES), HUES)
    # Kept falls by .8 over half a turn; between encoders the samples of one source vary together.
    estimates = []
    for hue in HUES:
        noise = 0.95 * shared + np.sqrt(1 - 0.95**2) * rng.standard_normal(shared.shape)
        readings = np.sqrt(0.9 - 1.6 * hue) * truth[:, None] + np.sqrt(0.1 + 1.6 * hue) * noise
        estimates.append(score.kept(VALUE, readings, truth))
    steep = score.interval(slope(estimates, found), 192, 0)
    values = np.array([float(estimate(np.ones((1, 192)))[0]) for estimate in estimates])
    assert steep.value == pytest.approx(float(np.polyfit(HUES, values, 1)[0]))
    assert steep.high < -0.5
    apart = slope_of_intervals([score.interval(estimate, 192, 0) for estimate in estimates], found)
    assert apart.value == pytest.approx(steep.value)
    assert steep.high - steep.low < apart.high - apart.low


def test_encoders_that_all_keep_as_much_have_no_slope() -> None:
    rng = np.random.Generator(np.random.Philox(6))
    truth = rng.standard_normal(192)
    found = Doses("hue", tuple(f"hue_{hue:g}" for hue in HUES), HUES)
    estimates = [score.kept(VALUE, 0.8 * truth[:, None] + 0.6 * rng.standard_normal((192, 8)), truth) for _ in HUES]
    steep = score.interval(slope(estimates, found), 192, 0)
    assert steep.low < 0 < steep.high
    assert steep.high < 0.2


def test_a_slope_of_intervals_has_the_error_of_independent_numbers() -> None:
    found = Doses("hue", ("a", "b", "c"), (0.0, 0.5, 1.0))
    steep = slope_of_intervals([Interval(v, v - 0.1, v + 0.1, 50) for v in (0.9, 0.5, 0.1)], found)
    assert steep.value == pytest.approx(-0.8)
    assert steep.n == 50
    assert steep.high - steep.value == pytest.approx(0.1 * np.sqrt(2))
