"""How a table of embeddings is made: each part embedded in one pass, then rows, statistics and metadata."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Inputs, Output, Summary
from stages.embeddings import card
from stages.embeddings.format import (
    ROWS,
    STATISTICS,
    Moments,
    decode_shard,
    dump_statistics,
    encode_shard,
    metadata,
    shard_name,
)
from stages.embeddings.pace import Passes, choose_batch, choose_decoding, keep_memory
from stages.embeddings.rows import rows_of
from stages.encoders.encoder import Encoder, Fingerprint
from stages.encoders.load import load
from stages.encoders.spec import EncoderSpec, Pretrained
from stages.errors import FormatError, InputError
from stages.images.sets import Decoding, Images, Rows, open_images
from stages.parquet import table_bytes

if TYPE_CHECKING:
    from stages.embeddings.stage import Embeddings


@dataclass(frozen=True)
class EmbeddingState:
    """What a worker keeps between parts."""

    encoder: Encoder
    fingerprint: Fingerprint
    images: Images
    train: NDArray[np.bool_] | None
    """Which rows are train rows; None where the images have no split."""
    passes: Passes
    decoding: Decoding

    @classmethod
    def load(cls, spec: EncoderSpec, inputs: Inputs, device: str, batch: int | None = None) -> "EmbeddingState":
        """Opens the images and loads the encoder; without `batch` one that suits the device is chosen.

        From then on the process keeps what memory its forward passes took (`pace.keep_memory`).
        """
        keep_memory(device)
        return cls.of(load(spec, inputs, device), open_images(inputs["images"]), device, batch)

    @classmethod
    def of(cls, encoder: Encoder, images: Images, device: str, batch: int | None = None) -> "EmbeddingState":
        """Of an encoder that is loaded."""
        table = images.table(("split",))
        train = None
        if "split" in table.column_names:
            import pyarrow.compute as pc

            train = np.asarray(pc.equal(table.column("split"), "train").fill_null(False))
        passes = Passes(encoder, batch or choose_batch(encoder, device))
        decoding = choose_decoding(images, encoder.preprocessing.framing, device)
        return cls(encoder, encoder.fingerprint(), images, train, passes, decoding)


def embed_part(stage: "Embeddings", part: int, state: EmbeddingState, out: Output) -> Summary:
    """Embeds a part in all views, each in one pass for all taps, and writes one shard per tap and view."""
    images, encoder = state.images, state.encoder
    start = part * images.part_rows
    length = min(images.part_rows, images.count - start)
    held = np.zeros(images.part_rows, dtype=np.bool_)
    tables = {
        (tap, view): np.full((length, width), np.nan, dtype=stage.dtype)
        for view in stage.views
        for tap, width in encoder.taps.items()
    }
    for rows, pixels in images.stream(part, encoder.preprocessing.framing, state.passes.batch, state.decoding):
        held[rows - start] = True
        for view in stage.views:
            shown = pixels if view == "plain" else np.ascontiguousarray(pixels[:, :, ::-1])
            found = state.passes.embed(shown) | encoder.embed_rows(rows, view)
            # A tap left out would be taken for rows without an image.
            assert found.keys() == encoder.taps.keys(), f"vectors at {set(found)}, taps {set(encoder.taps)}"
            for tap, vectors in found.items():
                tables[tap, view][rows - start] = _stored(vectors, stage.dtype, tap, rows)
    moments: dict[str, Moments] = {}
    for view in stage.views:
        for tap in encoder.taps:
            stored = _put(out, shard_name(tap, view, part), tables.pop((tap, view)), images.part_rows, held)
            if state.train is not None:
                fit = np.flatnonzero(held[:length] & state.train[start : start + length])
                own = Moments.of(stored[fit])
                moments[tap] = moments[tap] + own if tap in moments else own
    return {
        "rows": length,
        "embedded": int(held.sum()),
        "fingerprint": state.fingerprint.model_dump(mode="json"),
        "moments": {tap: _pack(sums) for tap, sums in moments.items()},
    }


def merge(stage: "Embeddings", summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
    """Writes `rows.parquet`, `statistics.safetensors` and the metadata of the Zarr store, its root last."""
    if not summaries:
        raise InputError(
            expected="at least one image", found="none", remedy="Look at the dataset of the study: it lists no image."
        )
    fingerprint = _agreed([Fingerprint.model_validate(summary["fingerprint"]) for summary in summaries])
    images = open_images(inputs["images"])
    rows = rows_of(images, inputs["images"])
    out.put(ROWS, table_bytes(rows))
    total: dict[str, Moments] = {}
    for summary in summaries:
        for tap, packed in summary["moments"].items():
            sums = _unpack(packed)
            total[tap] = total[tap] + sums if tap in total else sums
    train_vectors = min((sums.n for sums in total.values()), default=0)
    if train_vectors > 0:
        out.put(STATISTICS, dump_statistics(total))
    embedded = sum(summary["embedded"] for summary in summaries)
    encoder = inputs[stage.encoder.input] if isinstance(stage.encoder, Pretrained) else None
    found = card.Card.of(stage, fingerprint, rows, embedded, inputs["images"], encoder)
    out.put(card.JSON, found.json_bytes())
    out.put(card.MARKDOWN, found.markdown())
    about = {
        **found.flat(),
        "encoder": json.dumps(stage.encoder.model_dump(mode="json")),
        "fingerprint": json.dumps(fingerprint.model_dump(mode="json")),
    }
    for name, data in metadata(fingerprint.taps, stage.views, rows, images.part_rows, stage.dtype, about).items():
        out.put(name, data)
    return {
        "rows": images.count,
        "embedded": embedded,
        "train_vectors": train_vectors,
        "taps": fingerprint.taps,
        "views": list(stage.views),
        "dtype": stage.dtype,
        "weights_sha256": fingerprint.weights_sha256,
    }


def _put(out: Output, name: str, vectors: NDArray[Any], part_rows: int, held: NDArray[np.bool_]) -> NDArray[Any]:
    """Writes or adopts a shard; returns what is in the store."""
    width, dtype = vectors.shape[1], str(vectors.dtype)
    data = encode_shard(vectors, part_rows)

    def check(stored: bytes) -> None:
        present = ~np.isnan(decode_shard(stored, part_rows, width, dtype)).any(axis=1)
        if not np.array_equal(present, held):
            raise FormatError(
                expected=f"{name} with vectors in {int(held.sum())} rows",
                found=f"{int(present.sum())} rows with vectors, {int((present != held).sum())} of them others",
                remedy="Run again with --force for that embeddings step.",
            )

    stored = out.put(name, data, check)
    return vectors if stored == data else decode_shard(stored, part_rows, width, dtype)


def _stored(vectors: NDArray[np.float32], dtype: str, tap: str, rows: Rows) -> NDArray[Any]:
    """Vectors of `rows` in the dtype of the table; InputError names the first row that is not finite in it."""
    with np.errstate(over="ignore"):
        cast = vectors.astype(dtype, copy=False)
    bad = np.flatnonzero(~np.isfinite(cast).all(axis=1))
    if len(bad):
        first = vectors[bad[0]]
        finite = bool(np.isfinite(first).all())
        raise InputError(
            expected=f"finite embeddings at tap {tap}",
            found=f"values up to {np.abs(first).max():.3g} in row {rows[bad[0]]}, too large for {dtype}"
            if finite
            else f"NaN or infinity in row {rows[bad[0]]}",
            remedy="Set dtype: float32."
            if finite
            else "The encoder is broken: check its weights and its preprocessing.",
        )
    return cast


def _agreed(fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    """The one encoder that made all parts; InputError where workers had different ones."""
    first = fingerprints[0]
    for other in fingerprints[1:]:
        if differences := first.differences(other):
            raise InputError(
                expected="one encoder on all workers",
                found=differences,
                remedy="Install the same library versions on every node, then run again with --force for that step.",
            )
    return first


def _pack(sums: Moments) -> dict[str, int | str]:
    return {
        "n": sums.n,
        "mean": base64.b64encode(sums.mean.tobytes()).decode(),
        "m2": base64.b64encode(sums.m2.tobytes()).decode(),
    }


def _unpack(packed: dict[str, Any]) -> Moments:
    mean, m2 = (np.frombuffer(base64.b64decode(packed[name]), dtype=np.float64) for name in ("mean", "m2"))
    return Moments(packed["n"], mean, m2)
