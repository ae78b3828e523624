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
from stages.samples import format
from stages.samples.stage import PUBLISHED

if TYPE_CHECKING:
    import pyarrow as pa

    from stages.samples.stage import Samples

GUIDED = 0.2, 5.0
"""Noise levels between which `guidance` other than 1 acts: above it narrows what is painted, below it adds nothing."""
PIXELS = 256 * 32 * 32
"""Pixels painted at once; it changes nothing but speed and memory."""


@dataclass(frozen=True)
class State:
    """What a worker keeps between parts."""

    decoder: AnyDecoder
    conditions: "pa.Table"
    vectors: list[NDArray[np.float32]]

    @classmethod
    def load(cls, stage: "Samples", inputs: Inputs, device: str) -> "State":
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
    place: str,
    vectors: Tensor,
    source_rows: Sequence[int],
    ks: Sequence[int],
    guidance: float = 1.0,
) -> NDArray[np.uint8]:
    """One sample per row: uint8 [N, size, size, 3].

    `vectors` [N, D] are raw embeddings at the tap `place`; sample i has the noise of (seed, source_rows[i], ks[i]), and
    in a step of a stochastic sampler that of (seed, source_rows[i], ks[i], step). `guidance` above 1 moves samples away
    from what is painted without a condition. Raises InputError where the decoder cannot, and where a value of a sample
    is no number.
    """
    sampled = _sampling(stage, decoder, place, guidance)
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
                expected=f"samples of finite values at {place}",
                found=f"infinities or NaN, by `sampler: {stage.sampler}` in {stage.steps} steps",
                remedy="Change noise levels or steps of `samples`; where that does not help, train at a lower rate.",
            )
        painted.append(from_network(images))
    return np.concatenate(painted) if painted else np.empty((0, size, size, 3), dtype=np.uint8)


def _sampling(
    stage: "Samples", decoder: AnyDecoder, place: str, guidance: float
) -> Callable[[noise.Noise, Tensor], Tensor]:
    """Images [B, 3, S, S] of noise and embeddings [B, D], as the stage says."""
    free = decoder.free() if guidance != 1.0 else None
    if stage.sampler == PUBLISHED:
        return decoder.published(place, stage.steps)
    denoiser, sampler, levels = decoder.denoiser(place), samplers.SAMPLERS[stage.sampler], sigmas(stage)
    if free is not None:
        denoiser = denoisers.guided(denoiser, free, guidance, *GUIDED)
    return lambda drawn, h: sampler(denoiser, drawn, levels, h)


def paint_part(stage: "Samples", part: int, state: State, out: Output) -> Summary:
    """Paints the conditions of a part, tap by tap, and writes its shard."""
    first = part * stage.part_conditions
    conditions = state.conditions.slice(first, stage.part_conditions).to_pylist()
    size, part_rows = state.decoder.card.size, stage.part_conditions * stage.per_source
    images = np.zeros((len(conditions), stage.per_source, size, size, 3), dtype=np.uint8)
    places = [f"{c['encoder']}:{c['tap']}" for c in conditions]
    for place in dict.fromkeys(places):
        chosen = [i for i, other in enumerate(places) if other == place]
        vectors = torch.from_numpy(
            np.stack([state.vectors[first + i] for i in chosen]).repeat(stage.per_source, axis=0)
        )
        rows = [conditions[i]["source_row"] for i in chosen for _ in range(stage.per_source)]
        ks = list(range(stage.per_source)) * len(chosen)
        images[chosen] = paint(stage, state.decoder, place, vectors, rows, ks).reshape(-1, *images.shape[1:])

    def check(stored: bytes) -> None:
        format.decode_shard(stored, size, part_rows, stage.per_source)

    flat = images.reshape(-1, size, size, 3)
    out.put(format.shard_name(part), format.encode_shard(flat, part_rows, stage.per_source), check)
    return {"samples": len(flat)}


def merge(stage: "Samples", summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
    """Writes `samples.parquet` and then `zarr.json`."""
    conditions = format.read_conditions(inputs["conditions"])
    card = read_card(inputs["decoder"])
    count = conditions.num_rows * stage.per_source
    painted = sum(summary["samples"] for summary in summaries)
    if painted != count:
        raise FormatError(f"{count} samples", f"{painted}", "Run again with --force for that samples step.")
    how = {"seed": stage.seed, "sampler": stage.sampler, "steps": stage.steps, "guidance": 1.0}
    out.put(format.SAMPLES, format.dump_samples(conditions, stage.per_source, how))
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
    out.put(f"{format.ARRAY}/zarr.json", format.metadata(count, card.size, part_rows, stage.per_source, attributes))
    return {
        "conditions": conditions.num_rows,
        "samples": count,
        "evaluations": samplers.evaluations(stage.sampler, stage.steps),
    }
