"""A made-up study with the artifacts that a report reads: invented numbers in the real formats, pictures of real scenes.

What a tap keeps is a table of numbers; its samples are scenes that agree with their source in an attribute as often as the
table says, a little blurred and noisy, so that the page looks as it will with a decoder's samples.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.questions.format import RESULTS, Figure, Row, dump_rows
from stages.shards import scenes
from tests.artifacts import MemoryArtifact

SIZE = 32
SOURCES = 10
SAMPLES = 8

SCENE = tuple(attribute.name for attribute in scenes.ATTRIBUTES)
PIXEL = ("mean_hue", "saturation", "contrast", "sharpness", "centre_x", "centre_y", "orientation")
SUBJECTS = (*SCENE, *PIXEL)

KEPT: Mapping[str, Sequence[float]] = {
    #                    shape hue   bghue patt  x     y     scale rot   bright mhue sat   contr sharp cx    cy    orient
    "simclr:backbone": (0.21, 0.38, 0.62, 0.99, 0.55, 0.87, 0.71, 0.12, 0.44, 0.58, 0.41, 0.66, 0.72, 0.40, 0.61, 0.35),
    "simclr:projector.0": (0.16, 0.19, 0.31, 0.98, 0.24, 0.82, 0.66, 0.05, 0.22, 0.30, 0.27, 0.55, 0.70, 0.22, 0.55, 0.30),
    "simclr:projector": (0.12, 0.05, 0.08, 0.97, 0.06, 0.79, 0.62, 0.02, 0.07, 0.10, 0.11, 0.41, 0.64, 0.07, 0.48, 0.27),
    "untrained:backbone": (0.04, 0.51, 0.78, 0.91, 0.33, 0.52, 0.39, 0.03, 0.74, 0.77, 0.62, 0.58, 0.60, 0.25, 0.41, 0.28),
    "oracle:pixels": (0.42, 0.95, 0.98, 1.00, 0.96, 0.97, 0.88, 0.31, 0.97, 0.98, 0.94, 0.93, 0.90, 0.92, 0.95, 0.72),
    "oracle:attributes": (0.74, 0.97, 0.99, 1.00, 0.93, 0.95, 0.86, 0.55, 0.92, 0.96, 0.90, 0.91, 0.93, 0.88, 0.90, 0.61),
}
PROBE: Mapping[str, Sequence[float]] = {
    "simclr:backbone": (0.59, 0.60, 0.78, 1.00, 0.91, 0.98, 0.91, 0.18, 0.72, 0.70, 0.66, 0.81, 0.90, 0.77, 0.86, 0.52),
    "simclr:projector.0": (0.56, 0.41, 0.52, 1.00, 0.70, 0.97, 0.90, 0.11, 0.49, 0.48, 0.45, 0.74, 0.88, 0.52, 0.80, 0.47),
    "simclr:projector": (0.52, 0.27, 0.23, 1.00, 0.28, 0.97, 0.89, 0.06, 0.21, 0.25, 0.22, 0.63, 0.85, 0.29, 0.74, 0.41),
    "untrained:backbone": (0.20, 0.83, 0.94, 0.99, 0.78, 0.81, 0.60, 0.05, 0.93, 0.92, 0.85, 0.84, 0.82, 0.55, 0.62, 0.44),
    "oracle:pixels": (0.62, 0.97, 0.99, 1.00, 0.99, 0.99, 0.95, 0.44, 0.99, 0.99, 0.97, 0.96, 0.94, 0.95, 0.97, 0.80),
    "oracle:attributes": (1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 0.99, 1.00, 0.98, 0.95, 0.95, 0.95, 0.93, 0.94, 0.70),
}
READER = (0.93, 0.99, 1.00, 1.00, 0.99, 0.99, 0.97, 0.90, 0.99, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00)
WIDTH = {"backbone": 256, "projector.0": 256, "projector": 128, "pixels": 192, "attributes": 23}
TRANSFORMS = ("crop", "shift", "zoom", "rotation", "flip", "greyscale", "hue", "brightness", "contrast", "blur", "noise")
IN_TRAINING = ("crop", "flip", "greyscale", "hue", "brightness", "contrast")


@dataclass(frozen=True)
class Study:
    """Artifacts by the report's input names."""

    inputs: dict[str, MemoryArtifact]


def study() -> Study:
    """The whole made-up study."""
    return Study(
        {
            "results.kept": kept(),
            "results.faithfulness": faithfulness(),
            "results.invariance": invariance(),
            "encoder.simclr": pretrained(),
        }
    )


def key(name: str) -> str:
    """A key that looks like one."""
    return hashlib.sha256(name.encode()).hexdigest()


def row(question: str, metric: str, at: str, subject: str, value: float, **more: Any) -> Row:
    """A row of an answer at the tap `at`."""
    encoder, _, tap = at.partition(":")
    rest = {"low": float("nan"), "high": float("nan"), "n": 128, "unit": ""} | more
    return Row(question, metric, encoder, tap, subject, value, **rest)


def answer(question: str, rows: Iterable[Row], figures: Iterable[Figure] = ()) -> MemoryArtifact:
    """An answer artifact of rows and figures."""
    artifact = MemoryArtifact({RESULTS: dump_rows(rows)}, key=key(question))
    for figure in figures:
        figure.put(artifact)
    return artifact


def rng(*words: str) -> np.random.Generator:
    """A generator of its own for every use."""
    return np.random.Generator(np.random.Philox(key=int(key(" ".join(words))[:16], 16)))


def sources() -> NDArray[np.uint8]:
    """uint8 [SOURCES, SIZE, SIZE, 3]."""
    return scenes.render(5, range(SOURCES), SIZE)[0]


def painted(place: str) -> NDArray[np.uint8]:
    """Samples of every source at a tap: uint8 [SOURCES, SAMPLES, SIZE, SIZE, 3]."""
    truth = scenes.sample(5, range(SOURCES))
    other = scenes.sample(6, range(SOURCES * SAMPLES))
    chance = np.random.Generator(np.random.Philox(key=9))
    values = {}
    for name, strength in zip(SCENE, KEPT[place], strict=False):
        own = np.repeat(truth[name], SAMPLES)
        keep = chance.random(len(own)) < strength
        values[name] = np.where(keep, own, other[name])
    turns = np.array(scenes.SYMMETRY)[values["shape"].astype(int)]
    values["rotation"] = np.where(turns > 0, np.nan_to_num(values["rotation"]), np.nan)
    images = scenes.draw(values, SIZE).astype(np.float64)
    soft = sum(np.roll(images, shift, axis) for shift in (-1, 0, 1) for axis in (1, 2)) / 6
    noisy = 0.6 * images + 0.4 * soft + chance.normal(0, 7, images.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8).reshape(SOURCES, SAMPLES, SIZE, SIZE, 3)


def figure(
    kind: str, at: str, tiles: NDArray[np.uint8], rows: Sequence[str], columns: Sequence[str], order: int
) -> Figure:
    """A figure of one tap."""
    encoder, _, tap = at.partition(":")
    name = f"{kind}-{at.replace(':', '-')}"
    return Figure(name, kind, kind, "", tiles, tuple(rows), tuple(columns), order, {"samples": 0}, encoder, tap)


def kept() -> MemoryArtifact:
    """The answer to `kept`: scores, verdicts, findings, twins, grids and maps."""
    rows: list[Row] = []
    figures = []
    real = sources()
    labels = [f"image {9000 + 37 * i}" for i in range(SOURCES)]
    for number, place in enumerate(KEPT):
        draw = rng("kept", place)
        for subject, value, probe, ceiling, reader in zip(
            SUBJECTS, KEPT[place], PROBE[place], KEPT["oracle:attributes"], READER, strict=True
        ):
            half = 0.02 + 0.05 * draw.random()
            verdict, why = judge(value, half, probe, ceiling, reader)
            floor = float(draw.normal(0, 0.02))
            rows.append(row("kept", "kept", place, subject, value, low=value - half, high=value + half, verdict=verdict, why=why))
            rows.append(row("kept", "fixed", place, subject, min(1.0, value + 0.02), low=value - half, high=value + half))
            rows.append(row("kept", "probe", place, subject, probe, low=probe - 0.02, high=min(1.0, probe + 0.02)))
            rows.append(row("kept", "floor", place, subject, floor, low=floor - 0.05, high=floor + 0.05))
        samples = painted(place)
        tiles = np.concatenate([real[:, None], samples], axis=1)
        columns = ["source", *[f"k = {k}" for k in range(SAMPLES)]]
        figures.append(figure("grid", place, tiles, labels, columns, number))
        pair = np.stack([real, samples[:, 0], samples[:, 3]], axis=1)[:4]
        figures.append(figure("twins", place, pair, labels[:4], ("source", "first twin", "second twin"), number))
        spread = np.sqrt((samples / 255.0).var(axis=1).mean(axis=-1))
        grey = np.rint(np.clip(spread / 0.35, 0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
        figures.append(figure("maps", place, grey[:, None], labels, ("map",), number))
    for subject, ceiling in zip(SUBJECTS, KEPT["oracle:attributes"], strict=True):
        rows.append(row("kept", "ceiling", "oracle:attributes", subject, ceiling))
    return answer("kept", rows, figures)


def judge(value: float, half: float, probe: float, ceiling: float, reader: float) -> tuple[str, str]:
    """A verdict and its reason in the manner of the real rule."""
    if reader < 0.95 or ceiling < 0.8:
        return "CANNOT TELL", f"reader {reader:.2f} (needs 0.95), ceiling {ceiling:.2f} (needs 0.80)"
    if (value - half) / ceiling >= 0.5:
        return "KEPT", f"lower bound of kept / ceiling is {(value - half) / ceiling:.2f}, at least 0.5"
    if probe >= 0.5:
        return "DECODER LIMIT", f"the probe reads it ({probe:.2f}), the samples do not show it ({value:.2f})"
    if (value + half) / ceiling <= 0.2 and probe <= 0.3:
        return "LOST", f"upper bound of kept / ceiling is {(value + half) / ceiling:.2f}, at most 0.2, and the probe reads {probe:.2f}"
    return "PARTLY", f"kept / ceiling is {value / ceiling:.2f}: neither kept (0.5) nor lost (0.2)"


def faithfulness() -> MemoryArtifact:
    """The answer to `faithfulness`."""
    rows = []
    for place, kept_values in KEPT.items():
        strength = float(np.mean(kept_values[:9]))
        mrr = {"samples": 0.08 + 0.75 * strength**2, "crop": 0.98, "nearest": 0.21, "random": 0.004, "shuffled": 0.004}
        for subject, value in mrr.items():
            rows.append(row("faithfulness", "mrr", place, subject, value, low=value * 0.9, high=min(1, value * 1.1)))
            rows.append(row("faithfulness", "median rank", place, subject, round(1 + 0.6 / value), low=1, high=round(2 + 0.9 / value), n=128))
    return answer("faithfulness", rows)


def invariance() -> MemoryArtifact:
    """The answer to `invariance`."""
    rows = []
    for place in KEPT:
        deep = {"backbone": 1.0, "projector.0": 0.55, "projector": 0.3, "pixels": 1.1, "attributes": 0.5}[place.split(":")[1]]
        for transform in TRANSFORMS:
            for level, strength in enumerate((0.25, 0.5, 1.0)):
                base = 0.62 if transform in IN_TRAINING else 0.85
                value = deep * base * strength**0.7 * (1 + 0.2 * rng(place, transform).normal())
                value = min(1.1, abs(value))
                rows.append(row("invariance", "r", place, f"{transform} {strength:g}", value, low=value * 0.94, high=value * 1.06))
    return answer("invariance", rows)


def pretrained() -> MemoryArtifact:
    """The artifact of a trained encoder; the report reads its summary only."""
    artifact = MemoryArtifact(key=key("encoder"), bitwise=False)
    quality = [
        {"attribute": attribute, "tap": tap, "knn": knn, "linear": linear, "chance": chance, "n": 2000}
        for attribute, chance, scores in (
            ("shape", 0.14, {"backbone": (0.62, 0.71), "projector.0": (0.58, 0.66), "projector": (0.51, 0.55)}),
            ("pattern", 0.27, {"backbone": (1.0, 1.0), "projector.0": (1.0, 1.0), "projector": (0.99, 1.0)}),
        )
        for tap, (knn, linear) in scores.items()
    ]
    taps = {tap: WIDTH[tap] for tap in ("backbone", "projector.0", "projector")}
    artifact.summary = {"taps": taps, "weights_sha256": key("weights"), "loss": 4.31, "quality": quality}
    return artifact
