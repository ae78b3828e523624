"""Shows what taps know of one image: the image and its samples, one row per tap, as one picture."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from stages.contract import Input
from stages.decoder.format import load as load_decoder
from stages.encoders.load import load as load_encoder
from stages.encoders.spec import EncoderSpec
from stages.errors import InputError
from stages.images import pixels
from stages.samples.paint import paint
from stages.samples.stage import Samples

GAP = 2
"""Pixels between two tiles."""
MAGNIFIED = 4
"""Each pixel is shown as a square of this side."""


def show(
    image: bytes,
    decoders: Sequence[Input],
    specs: Mapping[str, EncoderSpec],
    encoders: Mapping[str, Input],
    taps: Sequence[str],
    settings: Samples,
    device: str,
    guidance: float = 1.0,
    scaled: bool = False,
) -> tuple[bytes, list[str]]:
    """A PNG with a row per tap (the image, then `settings.per_source` samples), and the taps in order of the rows.

    `decoders` are a decoder and its extensions, `specs` the encoders of the study by name, `encoders` the artifacts of
    those that were pretrained. No `taps` means all that read pixels. Networks run on `device`. `guidance` is that of
    `stages.samples.paint`, `scaled` that of `stages.images.pixels.decode_fit`.
    Raises InputError for an unknown tap, one that does not read pixels, a bad image, and guidance where the decoder
    knows none.
    """
    models = [load_decoder(decoder, device) for decoder in decoders]
    painters = {tap: model for model in models for tap in model.taps}
    pictures = pixels.decode_fit(image, models[0].card.size, scaled=scaled)[None]
    vectors: dict[str, np.ndarray] = {}
    for name, spec in specs.items():
        given = {"encoder": encoders[name]} if name in encoders else {}
        encoder = load_encoder(spec, given, device)
        # Stacked, since torch warns of an image that cannot be written to.
        seen = np.stack([pixels.decode_fit(image, encoder.preprocessing.framing, scaled=scaled)])
        embedded = encoder.embed(seen)
        vectors |= {f"{name}:{tap}": vector for tap, vector in embedded.items() if f"{name}:{tap}" in painters}
    chosen = list(taps) or list(vectors)
    for tap in chosen:
        if tap not in vectors:
            raise InputError(f"taps that read pixels, {', '.join(vectors)}", tap, "Name one of these.")
    rows = []
    for tap in chosen:
        count = settings.per_source
        repeated = torch.from_numpy(vectors[tap]).repeat(count, 1)
        painted = paint(settings, painters[tap], tap, repeated, [0] * count, range(count), guidance)
        rows.append(np.concatenate([pictures, painted]))
    return pixels.encode_png(_sheet(np.stack(rows))), chosen


def _sheet(tiles: "np.ndarray") -> "np.ndarray":
    """uint8 [R, C, S, S, 3] as one image, tiles magnified and apart."""
    large = tiles.repeat(MAGNIFIED, axis=2).repeat(MAGNIFIED, axis=3)
    apart = np.pad(large, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = apart.shape
    return apart.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
