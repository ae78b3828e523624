"""A made-up study of thirteen encoders at nineteen taps, of the shape of the recipe `findings`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stages.questions.edits import format as edited
from stages.questions.findings import FINAL_EDIT, GAP, SELECTIVITY, TRAINED, EditEvidence, edit_works
from stages.questions.format import Figure, Row
from tests.artifacts import MemoryArtifact
from tests.stages.report import synthetic
from tests.stages.report.synthetic import SCENE, SUBJECTS, answer, figure, key, painted, rng, row

METHODS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "simclr": ("simclr", "", ("backbone", "projector")),
    "vicreg": ("vicreg", "", ("backbone", "projector")),
    "shape": ("supervised", "shape", ("backbone",)),
    "pattern": ("supervised", "pattern", ("backbone",)),
}
"""Method, label and taps by the first word of an encoder's name; there are three seeds of each."""
SEEDS = (1, 2, 3)
EDITED = ("hue", "background_hue", "x", "y")
LEVELS = (0.25, 0.5, 1.0, 2.0)
LARGE = 8.0

_BY_TAP: Mapping[str, str] = {
    # In the order of SUBJECTS, per cent.
    "simclr:backbone": "31 38 72 99 55 87 71 12 44 58 41 66 72 40 61 35",
    "simclr:projector": "12 5 8 97 6 79 62 2 7 10 11 41 64 7 48 27",
    "vicreg:backbone": "28 71 74 99 70 82 66 14 69 64 61 70 71 48 70 38",
    "vicreg:projector": "15 31 22 98 21 71 58 4 24 21 20 52 60 12 55 30",
    "shape:backbone": "98 9 12 4 14 66 78 22 11 13 24 31 44 33 21 25",
    "pattern:backbone": "11 7 11 99 8 84 51 3 9 12 19 33 81 46 32 18",
}
_ORACLE = "97 98 99 100 95 97 92 90 96 98 94 93 96 91 94 72"


def _shares(text: str) -> tuple[float, ...]:
    return tuple(int(word) / 100 for word in text.split())


def _table(better: float) -> dict[str, tuple[float, ...]]:
    """What every tap keeps, or its probe reads, which is nearer to 1 by the share `better`."""
    found = {}
    for method, (_, _, taps) in METHODS.items():
        for seed in SEEDS:
            for tap in taps:
                draw = rng("table", method, str(seed))
                shift = draw.normal(0, 0.02, len(SUBJECTS))
                low = np.clip(np.array(_shares(_BY_TAP[f"{method}:{tap}"])) + shift, 0.0, 1.0)
                found[f"{method}_{seed}:{tap}"] = tuple((low + better * low * (1 - low)).tolist())
    found["oracle:attributes"] = _shares(_ORACLE)
    return found


KEPT = _table(0.0)
PROBE = _table(0.7)


def study() -> dict[str, MemoryArtifact]:
    """The made-up study: artifacts by the report's input names."""
    shards = MemoryArtifact(key=key("shards"))
    shards.summary = {"rows": 12288, "ok": 12288, "train": 10814, "heldout": 1474, "bytes": 9_000_000}
    encoders = {
        f"encoder.{name}_{seed}": synthetic.pretrained(method, 9000 + 10 * number + seed, label, taps)
        for number, (name, (method, label, taps)) in enumerate(METHODS.items())
        for seed in SEEDS
    }
    return encoders | {
        "results.kept": synthetic.kept(KEPT, PROBE, 4),
        "results.invariance": synthetic.invariance(KEPT, 1),
        "results.robustness": robustness(),
        "results.edits": edits(),
        "decoder": synthetic.decoder(KEPT),
        "readers": MemoryArtifact(key=key("readers")),
        "probes": MemoryArtifact(key=key("probes")),
        "shards": shards,
    }


def robustness() -> MemoryArtifact:
    """The answer to `robustness`: supervised encoders move a little farther than self-supervised ones."""
    own = [tap_id for tap_id in KEPT if not tap_id.startswith("oracle")]
    rows: list[Row] = []
    for tap_id in own:
        slope = _slope(tap_id)
        for attack, share in (("pgd", 1.0), ("fgsm", 0.8), ("signs", 0.15)):
            for eps in (*LEVELS, LARGE):
                value = share * 1.6 * (1 - np.exp(-slope * eps))
                rows.append(_bounded("movement", tap_id, f"{attack} {eps:g}", value, 0.08 * value))
        rows.append(_bounded("movement", tap_id, "transfer from simclr_1 1", 0.3 * slope, 0.02))
        rows.append(_bounded("check", tap_id, "pgd - fgsm 1", 0.05, 0.01))
        for subject, value in (("no attack", 0.93), *((f"pgd {e:g}", 0.93 * np.exp(-2 * slope * e)) for e in LEVELS)):
            rows.append(_bounded("accuracy", tap_id, subject, value, 0.04))
    for name, (method, label, _) in METHODS.items():
        for seed in SEEDS:
            subject = f"{method} {label}".strip()
            rows.append(row("robustness", TRAINED, f"{name}_{seed}:", subject, 9000.0 + seed))
    for supervised, other, eps in _pairs():
        gap = 1.6 * (np.exp(-_slope(f"{other}:backbone") * eps) - np.exp(-_slope(f"{supervised}:backbone") * eps))
        rows.append(_bounded(f"{GAP}backbone", f"{supervised}:", f"{other} {eps:g}", gap, 0.03))
    columns = ("as it is", *(f"pgd {eps:g}" for eps in (*LEVELS, LARGE)), "signs 1")
    figures = [_figure("grid", at, ["image 9037"], columns, number) for number, at in enumerate(own)]
    return answer("robustness", rows, figures)


def _slope(tap_id: str) -> float:
    method, _, end = tap_id.partition("_")
    deeper = 0.6 if end.endswith("projector") else 1.0
    seed = 1 + 0.05 * int(end[0])
    return {"simclr": 0.12, "vicreg": 0.15, "shape": 0.27, "pattern": 0.16}[method] * deeper * seed


def _pairs() -> Iterator[tuple[str, str, float]]:
    for supervised in ("shape", "pattern"):
        for one in SEEDS:
            for other in ("simclr", "vicreg"):
                for two in SEEDS:
                    for eps in LEVELS:
                        yield f"{supervised}_{one}", f"{other}_{two}", eps


def _bounded(metric: str, at: str, subject: str, value: float, half: float, **more: Any) -> Row:
    question = "edits" if metric.startswith(edited.ON) or metric in EDIT_METRICS else "robustness"
    return row(question, metric, at, subject, float(value), low=float(value - half), high=float(value + half), **more)


EDIT_METRICS = (SELECTIVITY, "effect", "over random", "held", "path", "largest step", "undone")


def edits() -> MemoryArtifact:
    """The answer to `edits`: what a tap keeps can be edited."""
    rows: list[Row] = []
    figures = []
    for number, (tap_id, shares) in enumerate(KEPT.items()):
        held = dict(zip(SCENE, shares, strict=False))
        for name in EDITED:
            rows.append(_bounded("held", tap_id, name, held[name], 0.05))
            for strength in (0.5, 1.0):
                effect = strength * 1.1 * held[name]
                rows.append(_bounded("effect", tap_id, f"{edited.MEANS} {strength:g} {name}", effect, 0.06))
            for method, share in ((edited.PROBE, 0.7), (edited.PCA, 0.4), (edited.RANDOM, 0.02)):
                rows.append(_bounded("effect", tap_id, f"{method} 1 {name}", share * held[name], 0.05))
            others = [other for other in EDITED if other != name]
            for place, other in enumerate(others):
                rows.append(_bounded(f"{edited.ON}{other}", tap_id, f"{FINAL_EDIT} {name}", 0.1 + 0.05 * place, 0.02))
            selectivity = 1.1 * held[name] - 0.2
            verdict, why = edit_works(EditEvidence(0.99, held[name] - 0.05, selectivity - 0.1, held[name], 0.02, 24))
            judged = {"verdict": verdict, "why": why}
            rows.append(_bounded(SELECTIVITY, tap_id, f"{FINAL_EDIT} {name}", selectivity, 0.1, **judged))
            rows.append(_bounded("over random", tap_id, f"{FINAL_EDIT} {name}", held[name], 0.1))
        for kind, bend in ((edited.LINEAR, 1.0), (edited.SPHERICAL, 0.8), (edited.PIXELS, 3.0)):
            for ratio in (0.0, 0.5, 1.0):
                rows.append(_bounded("path", tap_id, f"{kind} {ratio:g}", 0.9 * ratio**bend, 0.04))
            rows.append(_bounded("largest step", tap_id, kind, 0.3 + 0.1 * bend, 0.04))
        if not tap_id.startswith("oracle"):
            rows += [_bounded("undone", tap_id, subject, 0.4, 0.03) for subject in ("not edited", "taken back hue")]
        columns = ("source", "unedited", "x 0.5", "x 1", "probe", "PCA", "random")
        labels = [f"{name}, image {9037 + i}" for name in EDITED for i in range(2)]
        figures.append(_figure("edits", tap_id, labels, columns, number))
        labels = [f"{kind}, image 9037" for kind in ("straight line", "arc", "blended pixels")]
        figures.append(_figure("paths", tap_id, labels, ("0", "0.5", "1"), 100 + number))
    return answer("edits", rows, figures)


def _figure(kind: str, tap_id: str, labels: Sequence[str], columns: Sequence[str], order: int) -> Figure:
    samples = painted(KEPT[tap_id])
    tiles = samples[[i % len(samples) for i in range(len(labels))], : len(columns)]
    return figure(kind, tap_id, tiles, labels, columns, order)
