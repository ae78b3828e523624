"""Painting: conditions to samples, in batches of one tap, on noise that no batch can change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.contract import Inputs, Output, Summary
from stages.decoder.format import AnyDecoder, load, read_card
from stages.diffusion import denoisers, noise, samplers
from stages.errors import FormatError, InputError
from stages.images.pixels import from_network
from stages.images.sets import SAMPLES
from stages.parquet import table_bytes
from stages.samples import format
from stages.samples.stage import PUBLISHED

if TYPE_CHECKING:
    import pyarrow as pa

    from stages.samples.stage import Samples

GUIDED = 0.2, 5.0
"""Noise levels between which `guidance` other than 1 acts: above it narrows what is painted, below it adds nothing."""
PIXELS = 256 * 32 * 32
"""Pixels painted at once; it changes nothing but speed and memory."""

Painter = Callable[[AnyDecoder, str, NDArray[np.float32]], NDArray[np.uint8]]
"""Samples uint8 [N, K, size, size, 3] of vectors [N, D] at a tap of a decoder."""


@dataclass(frozen=True)
class PaintingState:
    """What a worker keeps between parts."""

    decoder: AnyDecoder
    conditions: "pa.Table"
    vectors: list[NDArray[np.float32]]

    @classmethod
    def load(cls, stage: "Samples", inputs: Inputs, device: str) -> "PaintingState":
        """Loads the decoder and all conditions."""
        conditions = format.read_conditions(inputs["conditions"])
        vectors = format.read_vectors(inputs["conditions"], conditions)
        return cls(load(inputs["decoder"], device, stage.snapshot), conditions, vectors)


def sigmas(stage: "Samples") -> Tensor:
    """Noise levels of the stage's sampler, float32 [steps + 1]."""
    return samplers.karras_sigmas(stage.steps, stage.sigma_min, stage.sigma_max, stage.rho)


def paint(
    stage: "Samples",
    decoder: AnyDecoder,
    tap_id: str,
    vectors: Tensor,
    source_rows: Sequence[int],
    ks: Sequence[int],
    guidance: float = 1.0,
) -> NDArray[np.uint8]:
    """One sample per row: uint8 [N, size, size, 3].

    `vectors` [N, D] are raw embeddings at the tap; sample i has the noise of (seed, source_rows[i], ks[i]), and
    in a step of a stochastic sampler that of (seed, source_rows[i], ks[i], step). `guidance` above 1 moves samples away
    from what is painted without a condition. Raises InputError where the decoder cannot, and where a value of a sample
    is no number.
    """
    sampled = _sampling(stage, decoder, tap_id, guidance)
    size = decoder.card.size
    batch = max(1, PIXELS // size**2)
    painted = []
    for start in range(0, len(vectors), batch):
        here = slice(start, start + batch)
        streams = [(stage.seed, row, k) for row, k in zip(source_rows[here], ks[here], strict=True)]
        drawn = noise.by_step(streams, (3, size, size), decoder.device)
        images = sampled(drawn, vectors[here].to(decoder.device))
        if not images.isfinite().all():
            raise InputError(
                expected=f"samples of finite values at {tap_id}",
                found=f"infinities or NaN, by `sampler: {stage.sampler}` in {stage.steps} steps",
                remedy="Change noise levels or steps of `samples`; where that does not help, train at a lower rate.",
            )
        painted.append(from_network(images))
    return np.concatenate(painted) if painted else np.empty((0, size, size, 3), dtype=np.uint8)


def painter(stage: "Samples", guidance: float = 1.0) -> Painter:
    """Paints `stage.per_source` samples of each vector; all vectors and taps have the same noise."""
    each = stage.per_source

    def paint_each(decoder: AnyDecoder, tap_id: str, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        repeated = torch.from_numpy(vectors).repeat_interleave(each, 0)
        ks = list(range(each)) * len(vectors)
        samples = paint(stage, decoder, tap_id, repeated, [0] * len(ks), ks, guidance)
        return samples.reshape(len(vectors), each, *samples.shape[1:])

    return paint_each


def _sampling(
    stage: "Samples", decoder: AnyDecoder, tap_id: str, guidance: float
) -> Callable[[noise.Noise, Tensor], Tensor]:
    """Images [B, 3, S, S] of noise and embeddings [B, D], sampled with the settings of the stage."""
    free = decoder.free() if guidance != 1.0 else None
    if stage.sampler == PUBLISHED:
        return decoder.published(tap_id, stage.steps)
    denoiser, sampler, levels = decoder.denoiser(tap_id), samplers.SAMPLERS[stage.sampler], sigmas(stage)
    if free is not None:
        denoiser = denoisers.guided(denoiser, free, guidance, *GUIDED)
    mean = decoder.mean(tap_id)
    # Noise of the highest level lies around E[image | h]. Started around 0, samples are drawn towards grey.
    return lambda drawn, h: sampler(denoiser, noise.around(drawn, mean(h) / levels[0].to(h)), levels, h)


def paint_part(stage: "Samples", part: int, state: PaintingState, out: Output) -> Summary:
    """Paints the conditions of a part, tap by tap, and writes its shard."""
    first = part * stage.part_conditions
    conditions = state.conditions.slice(first, stage.part_conditions).to_pylist()
    size, part_rows = state.decoder.card.size, stage.part_conditions * stage.per_source
    images = np.zeros((len(conditions), stage.per_source, size, size, 3), dtype=np.uint8)
    tap_ids = [f"{c['encoder']}:{c['tap']}" for c in conditions]
    for tap_id in dict.fromkeys(tap_ids):
        chosen = [i for i, other in enumerate(tap_ids) if other == tap_id]
        vectors = torch.from_numpy(
            np.stack([state.vectors[first + i] for i in chosen]).repeat(stage.per_source, axis=0)
        )
        rows = [conditions[i]["source_row"] for i in chosen for _ in range(stage.per_source)]
        ks = list(range(stage.per_source)) * len(chosen)
        images[chosen] = paint(stage, state.decoder, tap_id, vectors, rows, ks).reshape(-1, *images.shape[1:])

    def check(stored: bytes) -> None:
        format.decode_shard(stored, size, part_rows, stage.per_source)

    flat = images.reshape(-1, size, size, 3)
    out.put(format.shard_name(part), format.encode_shard(flat, part_rows, stage.per_source), check)
    return {"samples": len(flat)}


def merge(stage: "Samples", summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
    """Writes `samples.parquet`, then what stands beside the pixels, the root of the Zarr group last."""
    conditions = format.read_conditions(inputs["conditions"])
    card = read_card(inputs["decoder"])
    count = conditions.num_rows * stage.per_source
    painted = sum(summary["samples"] for summary in summaries)
    if painted != count:
        raise FormatError(f"{count} samples", f"{painted}", "Run again with --force for that samples step.")
    how = {"seed": stage.seed, "sampler": stage.sampler, "steps": stage.steps, "guidance": 1.0}
    samples = format.samples_of(conditions, stage.per_source, how, format.digits(stage, inputs))
    out.put(SAMPLES, table_bytes(samples))
    chosen = {"sigma_min": stage.sigma_min, "sigma_max": stage.sigma_max, "rho": stage.rho}
    levels = {} if stage.sampler == PUBLISHED else chosen
    attributes = {
        "decoder_key": inputs["decoder"].key,
        "conditions_key": inputs["conditions"].key,
        **levels,
        "snapshot": stage.snapshot,
        **how,
    }
    part_rows = stage.part_conditions * stage.per_source
    for name, data in format.metadata(samples, card.size, part_rows, stage.per_source, attributes).items():
        out.put(name, data)
    return {
        "conditions": conditions.num_rows,
        "samples": count,
        "evaluations": samplers.evaluations(stage.sampler, stage.steps),
    }
