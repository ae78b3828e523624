"""What few evaluations cost in the samples: 20 of them, by two samplers, against ancestral sampling with 100.

    python -m tests.benchmarks.samplers STORE [SOURCES]

STORE is one in which the `scenes` study is finished. Paints SOURCES (512) held-out images once per seed, five seeds,
with the trained decoder at `simclr:backbone`, and prints the mean reciprocal rank of the source among all held-out
images and the Fréchet distance to them in the features of a network that is not under study (random weights). The
difference of ranks is paired by source. Asserts nothing.
"""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch

from stages.decoder import format as decoder_format
from stages.embeddings.format import open_table
from stages.encoders.encoder import Encoder
from stages.encoders.load import load
from stages.encoders.spec import Pretrained, Untrained
from stages.images.sets import open_images
from stages.questions import measures
from stages.readers import score
from stages.readers.data import rows_of
from stages.readers.score import Floats
from stages.samples.paint import paint
from stages.samples.stage import Samples
from tests.artifacts import FolderArtifact
from tests.benchmarks.demo import steps

TAP, SEEDS = ("simclr", "backbone"), 5
FEW = {
    "dpm++2m, 20 evaluations": Samples(sampler="dpm++2m", rho=7.0),
    "sde-dpm++2m, 20 evaluations": Samples(),
}
MANY = {
    "ancestral, 100 evaluations": Samples(sampler="ancestral", steps=100, rho=7.0),
    "ancestral, 100 evaluations to 0.02": Samples(sampler="ancestral", steps=100, sigma_min=0.02, rho=7.0),
}
"""Each of `FEW` is held against each of these. Noise levels go from 20 to 0.1 unless a name says otherwise."""


def embedded(encoder: Encoder, images: "np.ndarray", tap: str) -> Floats:
    """Embeddings float64 [N, D] of uint8 [N, H, W, 3]."""
    chunks = [encoder.embed(images[start : start + 512])[tap] for start in range(0, len(images), 512)]
    return np.concatenate(chunks).astype(np.float64)


def main(store: Path, sources: int) -> None:
    """Prints the figures."""
    found = steps("scenes", store)
    artifact = {name: FolderArtifact(Path(state["url"])) for name, state in found.items()}
    encoder_name, tap = TAP
    encoder = load(Pretrained(), {"encoder": artifact["encoder.simclr"]}, "cpu")
    judge = load(Untrained(), {}, "cpu")
    decoder = decoder_format.load(artifact["decoder"], "cpu")
    table = open_table(artifact[f"embeddings.{encoder_name}"])
    heldout = rows_of(artifact["shards"], "heldout")
    vectors = table.read(tap, "plain", heldout)
    standardise = table.statistics(tap).standardise
    gallery = standardise(vectors).astype(np.float64)
    chosen = np.random.Generator(np.random.Philox(key=[0, 20])).permutation(len(heldout))[:sources]
    images = open_images(artifact["shards"]).decode(heldout, decoder.card.size)
    real = embedded(judge, images, "backbone")
    half = len(real) // 2
    print(f"{sources} sources x {SEEDS} seeds at {encoder_name}:{tap}, gallery of {len(gallery)}", flush=True)
    print(f"Fréchet distance, one half of the held-out images to the other: {frechet(real[:half], real[half:]):.4f}")
    reciprocal: dict[str, Floats] = {}
    features: dict[str, list[Floats]] = {}
    for name, how in (FEW | MANY).items():
        ranks, seen, began = [], [], time.process_time()
        for seed in range(SEEDS):
            stage = how.model_copy(update={"seed": seed})
            samples = paint(
                stage,
                decoder,
                ":".join(TAP),
                torch.from_numpy(vectors[chosen]),
                heldout[chosen].tolist(),
                [0] * sources,
            )
            seen_by = standardise(embedded(encoder, samples, tap).astype(np.float32)).astype(np.float64)
            ranks.append(measures.ranks(seen_by, gallery, chosen))
            seen.append(embedded(judge, samples, "backbone"))
        reciprocal[name] = (1.0 / np.stack(ranks)).mean(axis=0)
        features[name] = seen
        whole = frechet(np.concatenate(seen), real)
        seconds = time.process_time() - began
        print(f"{name:<42} MRR {reciprocal[name].mean():.4f}  Fréchet {whole:.4f}  {seconds:.0f} CPU s", flush=True)
    for few, other in itertools.product(FEW, MANY):
        gap = score.interval(score.mean(reciprocal[few] - reciprocal[other]), sources, 0)
        ratios = [frechet(a, real) / frechet(b, real) for a, b in zip(features[few], features[other], strict=True)]
        print(
            f"{few} against {other}: MRR difference {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] "
            f"(goal: low >= -0.01); Fréchet ratio by seed {min(ratios):.3f} to {max(ratios):.3f}, "
            f"mean {np.mean(ratios):.3f} (goal <= 1.02)"
        )


def frechet(a: Floats, b: Floats) -> float:
    """Fréchet distance of two Gaussians fitted to features [N, D] (Heusel et al. 2017, equation 6)."""
    mean = float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (A B)^(1/2) by the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    values, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(np.clip(values, 0.0, None))) @ axes.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0.0, None)).sum()
    return mean + float(np.trace(first) + np.trace(second) - 2.0 * cross)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 512)
