"""A made-up study as a report reads it: invented numbers in the real formats, pictures of real scenes.

What a tap keeps is a table of numbers; its samples are scenes that agree with their source in an attribute as often as
the table says, a little blurred and noisy, so that the page is like one with a decoder's samples.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.datasets import scenes
from stages.decoder.format import CARD, DecoderCard, Point
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.encoders.augment import Augmentations
from stages.encoders.format import CARD as ENCODER_CARD
from stages.encoders.format import Quality, TrainedCard
from stages.encoders.spec import Architecture, Preprocessing
from stages.questions.asks.transforms import TRANSFORMS
from stages.questions.format import BOTH, RESULTS, Figure, Ranks, Row, dump_rows, put_ranks
from stages.questions.kept import verdicts
from tests.artifacts import MemoryArtifact

SIZE = 32
SOURCES = 8
SAMPLES = 8

SCENE = tuple(attribute.name for attribute in scenes.ATTRIBUTES)
PIXEL = ("mean_hue", "saturation", "contrast", "sharpness", "centre_x", "centre_y", "orientation")
SUBJECTS = (*SCENE, *PIXEL)


def _shares(text: str) -> tuple[float, ...]:
    return tuple(int(word) / 100 for word in text.split())


KEPT: Mapping[str, Sequence[float]] = {
    # In the order of SUBJECTS, per cent.
    "simclr:backbone": _shares("21 38 62 99 55 87 71 12 44 58 41 66 72 40 61 35"),
    "simclr:projector.0": _shares("16 19 31 98 24 82 66 5 22 30 27 55 70 22 55 30"),
    "simclr:projector": _shares("12 5 8 97 6 79 62 2 7 10 11 41 64 7 48 27"),
    "untrained:backbone": _shares("4 51 78 91 33 52 39 3 74 77 62 58 60 25 41 28"),
    "oracle:pixels": _shares("42 95 98 100 96 97 88 31 97 98 94 93 90 92 95 72"),
    "oracle:attributes": _shares("74 97 99 100 93 95 86 55 92 96 90 91 93 88 90 61"),
}
PROBE: Mapping[str, Sequence[float]] = {
    "simclr:backbone": _shares("59 60 78 100 91 98 91 18 72 70 66 81 90 77 86 52"),
    "simclr:projector.0": _shares("56 41 52 100 70 97 90 11 49 48 45 74 88 52 80 47"),
    "simclr:projector": _shares("52 15 13 100 17 97 89 6 12 14 13 63 85 17 74 41"),
    "untrained:backbone": _shares("20 83 94 99 78 81 60 5 93 92 85 84 82 55 62 44"),
    "oracle:pixels": _shares("62 97 99 100 99 99 95 44 99 99 97 96 94 95 97 80"),
    "oracle:attributes": _shares("100 100 100 100 100 100 100 99 100 98 95 95 95 93 94 70"),
}
READER = (0.93, 0.99, 1.00, 1.00, 0.99, 0.99, 0.97, 0.90, 0.99, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00, 1.00)
WIDTH = {"backbone": 256, "projector.0": 256, "projector": 128, "pixels": 192, "attributes": 23}
VERSIONS = {"python": "3.11.2", "repscope": "0.1.0", "ray": "2.60.0", "torch": "2.14.1+cu130", "zarr": "3.1.6"}
IN_TRAINING = ("crop", "flip", "greyscale", "hue", "brightness", "contrast")


def study() -> dict[str, MemoryArtifact]:
    """The made-up study: artifacts by the report's input names."""
    shards = MemoryArtifact(key=key("shards"))
    shards.summary = {"rows": 12000, "ok": 12000, "train": 10000, "heldout": 2000, "bytes": 9_000_000}
    return {
        "results.kept": kept(),
        "results.faithfulness": faithfulness(),
        "results.invariance": invariance(),
        "encoder.simclr": pretrained(),
        "decoder": decoder(),
        "readers": MemoryArtifact(key=key("readers")),
        "probes": MemoryArtifact(key=key("probes")),
        "shards": shards,
    }


def key(name: str) -> str:
    """A key of the right form."""
    return hashlib.sha256(name.encode()).hexdigest()


def row(question: str, metric: str, at: str, subject: str, value: float, **more: Any) -> Row:
    """A row of an answer at the tap `at`."""
    encoder, _, tap = at.partition(":")
    rest: dict[str, Any] = {"low": float("nan"), "high": float("nan"), "n": 128, "unit": ""}
    rest |= more
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


@lru_cache
def painted(shares: Sequence[float]) -> NDArray[np.uint8]:
    """Samples of every source that keep these shares of SCENE: uint8 [SOURCES, SAMPLES, SIZE, SIZE, 3]."""
    truth = scenes.sample(5, range(SOURCES))
    other = scenes.sample(6, range(SOURCES * SAMPLES))
    chance = np.random.Generator(np.random.Philox(key=9))
    values = {}
    for name, strength in zip(SCENE, shares, strict=False):
        own = np.repeat(truth[name], SAMPLES)
        keep = chance.random(len(own)) < strength
        values[name] = np.where(keep, own, other[name])
    turns = np.array(scenes.SYMMETRY)[values["shape"].astype(int)]
    values["rotation"] = np.where(turns > 0, np.nan_to_num(values["rotation"]), np.nan)
    images = scenes.draw(values, SIZE).astype(np.float64)
    soft = sum(np.roll(images, shift, axis) for shift in (-1, 0, 1) for axis in (1, 2)) / 6
    noisy = 0.6 * images + 0.4 * soft + chance.normal(0, 7, images.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8).reshape(SOURCES, SAMPLES, SIZE, SIZE, 3)


def kept(
    table: Mapping[str, Sequence[float]] = KEPT,
    probes: Mapping[str, Sequence[float]] = PROBE,
    per_source: int = SAMPLES,
) -> MemoryArtifact:
    """The answer to `kept`: scores, verdicts, twins, grids and maps."""
    rows = [row("kept", "rules", "", "", float("nan"), n=0, why=verdicts.THRESHOLDS)]
    for subject, reader in zip(SUBJECTS, READER, strict=True):
        unit = verdicts.NOISY if subject in PIXEL else "balanced accuracy" if subject in ("shape", "pattern") else "R2"
        rows.append(row("kept", "reader", "", subject, reader, n=2000, unit=unit))
    figures = []
    real = sources()
    labels = [f"image {9000 + 37 * i}" for i in range(SOURCES)]
    for number, tap_id in enumerate(table):
        draw = rng("kept", tap_id)
        if not tap_id.startswith("oracle"):
            near = 0.9 - 0.3 * table[tap_id][6]
            rows.append(row("kept", "nearness", tap_id, "", near, low=near - 0.05, high=near + 0.05))
        for subject, value, probe, top, reader in zip(
            SUBJECTS, table[tap_id], probes[tap_id], table["oracle:attributes"], READER, strict=True
        ):
            ceiling = None if subject in PIXEL else top
            half = 0.02 + 0.04 * draw.random()
            share = value / (ceiling or 1.0)
            verdict, why = verdicts.judge(
                verdicts.Evidence(
                    sources=192,
                    low=share - half,
                    high=share + half,
                    kept_low=value - half,
                    reader=reader,
                    ceiling=ceiling,
                    probe=(probe - 0.02, probe + 0.02),
                    power=0.95,
                    dispersion=(0.0, 0.04),
                    nearness=0.7,
                    rise_high=0.01,
                )
            )
            rows.append(
                row(
                    "kept",
                    "kept",
                    tap_id,
                    subject,
                    value,
                    low=value - half,
                    high=value + half,
                    verdict=verdict,
                    why=why,
                )
            )
            beside = {
                "fixed": min(1.0, value + 0.02),
                "fixed - kept": min(1.0, value + 0.02) - value,
                "odd one out": 1.1,
                "floor": 0.02 * draw.normal(),
                "probe": probe,
                "probe floor": 0.01,
            }
            beside |= {"kept halfway": value - 0.02} | ({} if ceiling is None else {"kept / ceiling": share})
            for metric, found in beside.items():
                rows.append(row("kept", metric, tap_id, subject, found, low=found - half, high=found + half))
            if ceiling is not None and tap_id == "oracle:attributes":
                rows.append(row("kept", "ceiling", tap_id, subject, value, low=value - half, high=value + half))
        rows.append(row("kept", "sentence", tap_id, "", float("nan"), n=0, why="as the page puts it"))
        samples = painted(table[tap_id])[:, :per_source]
        columns = ("source", *(f"k = {k}" for k in range(per_source)))
        figures.append(
            figure("grid", tap_id, np.concatenate([real[:, None], samples], axis=1), labels, columns, number)
        )
        if not tap_id.startswith("oracle"):
            tiles = np.stack([real, samples[:, 0], samples[:, 3]], axis=1)
            caption = "Their embeddings are 0.31 of the distance of two random images away from the source's."
            figures.append(figure("twins", tap_id, tiles, labels, ("source", "twin a", "twin b"), number, caption))
        spread = np.sqrt((samples / 255.0).var(axis=1).mean(axis=-1))
        grey = np.rint(np.clip(spread / 0.35, 0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
        caption = "Black 0, white 0.350 of full intensity, the same scale at every tap."
        figures.append(
            figure("maps", tap_id, np.stack([real, grey], axis=1), labels, ("source", "deviation"), number, caption)
        )
    for encoder in both_ends(table):
        ends = (table[f"{encoder}:backbone"], table[f"{encoder}:projector"])
        for subject, first, last in zip(SUBJECTS, *ends, strict=True):
            gap = first - last
            both = f"{encoder}:{BOTH}"
            rows.append(row("kept", "kept difference", both, subject, gap, low=gap - 0.04, high=gap + 0.04))
    return answer("kept", rows, figures)


def figure(
    kind: str,
    at: str,
    tiles: NDArray[np.uint8],
    rows: Sequence[str],
    columns: Sequence[str],
    order: int,
    caption: str = "",
) -> Figure:
    """A figure of one tap."""
    encoder, _, tap = at.partition(":")
    name = f"{kind}-{at.replace(':', '-')}"
    return Figure(name, kind, name, caption, tiles, tuple(rows), tuple(columns), order, {"bootstrap": 0}, encoder, tap)


def both_ends(table: Mapping[str, Sequence[float]]) -> list[str]:
    """The encoders with both a backbone and a projector."""
    return [at.partition(":")[0] for at in table if at.endswith(":projector")]


def faithfulness(table: Mapping[str, Sequence[float]] = KEPT) -> MemoryArtifact:
    """The answer to `faithfulness`; the oracle's taps have none, as they see no pixels of a sample."""
    rows, ranked = [], []
    for tap_id, values in table.items():
        if tap_id.startswith("oracle"):
            continue
        strength = float(np.mean(values[:9]))
        mrr = {"samples": 0.08 + 0.75 * strength**2, "nearest": 0.21, "random": 0.004, "shuffled": 0.005, "crop": 0.97}
        for subject, value in mrr.items():
            among = "among 2000 held-out images"
            rank = 1 + 0.6 / value
            found = {
                "mrr": (value, f"mean of 1 / rank {among}"),
                "median rank": (round(rank), f"rank {among}"),
                "mean rank": (4 * rank, f"rank {among}"),
                "distance": (0.5 - 0.2 * value, "distance of two random images"),
                "cosine distance": (0.2 - 0.1 * value, "1 - cosine"),
            }
            for metric, (mean, unit) in found.items():
                rows.append(
                    row("faithfulness", metric, tap_id, subject, mean, low=0.9 * mean, high=1.1 * mean, unit=unit)
                )
            per_source = SAMPLES if subject in ("samples", "shuffled") else 1
            spread = np.exp(rng("ranks", tap_id, subject).gamma(1.5, np.log(rank), (128, per_source)))
            ranked.append(Ranks(tap_id, subject, 2000, np.arange(128) * 15, np.clip(np.floor(spread), 1, 2000)))
    artifact = answer("faithfulness", rows)
    put_ranks(artifact, ranked)
    return artifact


def invariance(table: Mapping[str, Sequence[float]] = KEPT, paint: int = 4) -> MemoryArtifact:
    """The answer to `invariance`, with painted examples."""
    rows = []
    depth = {"backbone": 1.0, "projector.0": 0.55, "projector": 0.3, "pixels": 1.1}
    tap_ids = [tap_id for tap_id in table if tap_id != "oracle:attributes"]
    for tap_id in tap_ids:
        deep = depth[tap_id.split(":")[1]]
        for subject, value in moved(tap_id, deep):
            rows.append(row("invariance", "r", tap_id, subject, value, low=value * 0.94, high=value * 1.06))
            rows.append(row("invariance", "cosine distance", tap_id, subject, value / 3, low=value / 4, high=value / 2))
        for subject, value in (("nearest other image", 0.42), ("same shape", 0.93), ("same pattern", 0.84)):
            rows.append(row("invariance", "reference", tap_id, subject, value, low=value - 0.02, high=value + 0.02))
    for encoder in both_ends(table):
        both = f"{encoder}:{BOTH}"
        first, last = (dict(moved(f"{encoder}:{end}", depth[end])) for end in ("backbone", "projector"))
        for subject, value in first.items():
            gap, share = value - last[subject], last[subject] / value
            rows.append(row("invariance", "r difference", both, subject, gap, low=gap - 0.03, high=gap + 0.03))
            rows.append(row("invariance", "r ratio", both, subject, share, low=share - 0.05, high=share + 0.05))
        for subject, value in (("r difference - untrained", 0.3), ("difference in differences", -0.6)):
            rows.append(row("invariance", subject, both, "own", value, low=value - 0.1, high=value + 0.1))
        for subject in Augmentations().used():
            rows.append(row("invariance", "augmentation", f"{encoder}:", subject, float("nan")))
    columns = ("as it is", *(f"{name} {t.painted:g}" for name, t in TRANSFORMS.items()), "own augmentations")
    labels = [f"image {9000 + 37 * i}" for i in range(paint)]
    seen = np.stack([sources()[:paint]] * len(columns), axis=1)
    seen[:, 3] = seen[:, 3, :, ::-1]
    encoders = dict.fromkeys(tap_id.partition(":")[0] for tap_id in tap_ids)
    figures = [figure("grid", encoder, seen, labels, columns, 0) for encoder in encoders]
    for number, tap_id in enumerate(tap_ids):
        samples = painted(table[tap_id])[:paint]
        tiles = np.concatenate([samples, samples], axis=1)[:, : len(columns)]
        figures.append(figure("grid", tap_id, tiles, labels, columns, number + 1))
    return answer("invariance", rows, figures)


def moved(tap_id: str, deep: float) -> list[tuple[str, float]]:
    """r by subject."""
    found = [("own", 0.55 * deep)]
    for name, transform in TRANSFORMS.items():
        base = (0.62 if name in IN_TRAINING else 0.85) * deep * (1 + 0.2 * rng(tap_id, name).normal())
        found += [(f"{name} {s:g}", abs(base) * (s / transform.strengths[-1]) ** 0.7) for s in transform.strengths]
    return found


def pretrained(
    method: str = "simclr",
    seed: int = 0,
    label: str = "",
    names: Sequence[str] = ("backbone", "projector.0", "projector"),
) -> MemoryArtifact:
    """The artifact of a trained encoder: its card and summary, no weights."""
    quality: list[dict[str, Any]] = [
        {"attribute": attribute, "tap": tap, "knn": knn, "linear": linear, "chance": chance, "n": 2000}
        for attribute, chance, scores in (
            ("shape", 0.14, {"backbone": (0.62, 0.71), "projector.0": (0.58, 0.66), "projector": (0.51, 0.55)}),
            ("pattern", 0.27, {"backbone": (1.0, 1.0), "projector.0": (1.0, 1.0), "projector": (0.99, 1.0)}),
        )
        for tap, (knn, linear) in scores.items()
        if tap in names
    ]
    taps = {tap: WIDTH[tap] for tap in names}
    training = {"seed": seed, "num_images": 240_000, "batch": 256, "train_images": 10_000}
    card = TrainedCard(
        method=method, architecture=Architecture(), preprocessing=Preprocessing(), taps=taps,
        augmentations=Augmentations(), quality=tuple(Quality(**entry) for entry in quality), versions=VERSIONS,
        training=training | ({"label": label} if label else {}),
        weights_sha256=key("weights"),
    )  # fmt: skip
    document = card.model_dump_json().encode()
    artifact = MemoryArtifact({ENCODER_CARD: document}, key=key("encoder"), bitwise=False)
    artifact.summary = {
        "taps": taps, "weights_sha256": key("weights"), "loss": 4.31, "quality": quality, "versions": VERSIONS,
    }  # fmt: skip
    return artifact


def decoder(table: Mapping[str, Sequence[float]] = KEPT) -> MemoryArtifact:
    """The artifact of a decoder: its card and summary, no weights."""
    taps = {tap_id: WIDTH[tap_id.split(":")[1]] for tap_id in table}
    points = np.linspace(0, 480_000, 25)[1:]
    curve = [
        Point(
            images=int(images),
            loss=0.05 + 0.2 * (images / 20_000) ** -0.7,
            heldout={at: 0.1 - 0.05 * np.mean(table[at]) + 0.2 * (images / 20_000) ** -0.7 for at in table},
        )
        for images in points
    ]
    card = DecoderCard(
        taps=taps, size=SIZE, network=NetworkSettings(), training=TrainingSettings(), seed=0, num_images=480_000,
        train_images=10_000, rest=0.3, curve=tuple(curve), finished="2026-11-22", versions=VERSIONS,
    )  # fmt: skip
    artifact = MemoryArtifact({CARD: card.model_dump_json().encode()}, key=key("decoder"), bitwise=False)
    last = curve[-1]
    artifact.summary = {
        "taps": taps, "num_images": 480_000, "train_images": 10_000, "loss": last.loss, "heldout": last.heldout,
    }  # fmt: skip
    return artifact
