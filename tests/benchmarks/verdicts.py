"""How often a verdict is wrong: simulated studies in which what an embedding holds is known.

`python -m tests.benchmarks.verdicts [studies]` prints, for each attribute, sampler and strength, how often each verdict
was given. Embeddings are Gaussian; an attribute is a linear function of them and noise, so p(attribute | embedding) is
known, and an exact sampler keeps `strength` of it. Probes are trained and samples scored by the code of a study.
"""

import sys
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch

from stages.attributes import Attribute
from stages.questions.kept import verdicts
from stages.readers import score
from stages.readers.probe import PLANTED, PLANTED_SHARE, Fold, probes
from stages.readers.score import Floats

SOURCES, PER_SOURCE, WIDTH, TRAIN, HELDOUT = 192, 8, 16, 2000, 1000
ALIKE = 0.9
"""Correlation of the noise in samples at the end and at half of training."""
STRENGTHS = (0.0, 0.1, 0.3, 0.4, 0.45, 0.55, 0.7, 0.9)
HALF = Attribute(name="half", kind="class", classes=("below", "above"))
VALUE = Attribute(name="value", kind="scalar")


def _exact(noise: Floats, mean: Floats, std: float) -> Floats:
    return mean[:, None] + std * noise


def _mean(noise: Floats, mean: Floats, std: float) -> Floats:
    """Always the best guess."""
    return np.repeat(mean[:, None], PER_SOURCE, axis=1)


def _narrow(noise: Floats, mean: Floats, std: float) -> Floats:
    """Drops modes: a quarter of the variance."""
    return mean[:, None] + 0.5 * std * noise


def _blind(noise: Floats, mean: Floats, std: float) -> Floats:
    """Ignores the embedding."""
    return noise


SAMPLERS: Mapping[str, Callable[[Floats, Floats, float], Floats]] = {
    "exact": _exact,
    "mean": _mean,
    "narrow": _narrow,
    "blind": _blind,
}


def study(seed: int, strength: float) -> dict[tuple[str, str], str]:
    """Verdicts of one study by (attribute, sampler)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, round(strength * 1000)]))
    direction = rng.standard_normal(WIDTH)
    direction /= np.linalg.norm(direction)
    std = float(np.sqrt(1.0 - strength))

    def fold(count: int) -> tuple[Fold, Floats]:
        embeddings = rng.standard_normal((count, WIDTH))
        mean = np.sqrt(strength) * embeddings @ direction
        number = mean + std * rng.standard_normal(count)
        values = {VALUE.name: number, HALF.name: (number > 0).astype(np.float64)}
        return Fold(torch.from_numpy(embeddings.astype(np.float32)), values), mean

    (train, _), (validation, _), (heldout, mean) = fold(TRAIN), fold(TRAIN // 9), fold(HELDOUT)
    read = {row.attribute: row for row in probes((VALUE, HALF), train, validation, heldout, 16, seed)}
    power = read[PLANTED].score
    found: dict[tuple[str, str], str] = {}
    for name, sampler in SAMPLERS.items():
        noise, other = rng.standard_normal((2, SOURCES, PER_SOURCE))
        # At half of the training the samples of the same noise were a little different.
        earlier = ALIKE * noise + np.sqrt(1.0 - ALIKE**2) * other
        painted, earlier = (sampler(drawn, mean[:SOURCES], std) for drawn in (noise, earlier))
        for attribute in (VALUE, HALF):
            values = [p if attribute is VALUE else (p > 0).astype(np.float64) for p in (painted, earlier)]
            truth = heldout.values[attribute.name][:SOURCES]
            kept = score.kept(attribute, values[0], truth)
            rise = score.difference(kept, score.kept(attribute, values[1], truth))
            bounds, gap, rising = (
                score.interval(estimate, SOURCES, seed)
                for estimate in (kept, score.dispersion(attribute, values[0], truth), rise)
            )
            probe = read[attribute.name]
            assert probe.low is not None
            assert probe.high is not None
            found[attribute.name, name], _ = verdicts.judge(
                verdicts.Evidence(
                    sources=SOURCES,
                    low=bounds.low,
                    high=bounds.high,
                    kept_low=bounds.low,
                    reader=1.0,
                    ceiling=None,
                    probe=(probe.low, probe.high),
                    power=None if power is None else power / PLANTED_SHARE,
                    dispersion=(gap.low, gap.high),
                    nearness=0.7,
                    rise_high=rising.high,
                )
            )
    return found


def kept_of_exact(attribute: Attribute, strength: float) -> float:
    """What an exact sampler keeps of an attribute, from many draws."""
    rng = np.random.Generator(np.random.Philox(1))
    mean = np.sqrt(strength) * rng.standard_normal(50_000)
    number = _exact(rng.standard_normal((len(mean), PER_SOURCE)), mean, float(np.sqrt(1.0 - strength)))
    values = number if attribute is VALUE else (number > 0).astype(np.float64)
    return float(score.kept(attribute, values[:, 1:], values[:, 0])(np.ones((1, len(mean))))[0])


def main(studies: int = 200) -> None:
    """Prints a line for each attribute, sampler and strength."""
    torch.set_num_threads(1)
    print(f"{studies} studies of {SOURCES} sources x {PER_SOURCE} samples; an exact sampler keeps `exact keeps`")
    for strength in STRENGTHS:
        counts: dict[tuple[str, str], Counter[str]] = {}
        for seed in range(studies):
            for key, verdict in study(seed, strength).items():
                counts.setdefault(key, Counter())[verdict] += 1
        for attribute in (VALUE, HALF):
            keeps = kept_of_exact(attribute, strength)
            for sampler in SAMPLERS:
                shares = ", ".join(f"{v} {n / studies:.3f}" for v, n in counts[attribute.name, sampler].most_common())
                print(f"{attribute.name:5} exact keeps {keeps:.2f}  {sampler:6}  {shares}", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
