"""What taps know of images that are given: samples of each, and how near these come to it at their own tap."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.contract import Input
from stages.decoder.format import AnyDecoder, read_card
from stages.decoder.format import load as load_decoder
from stages.embeddings.format import open_table
from stages.encoders.encoder import Encoder, Fingerprint
from stages.encoders.load import load as load_encoder
from stages.encoders.spec import EncoderSpec
from stages.errors import InputError
from stages.images import image_file
from stages.questions import measures
from stages.readers.data import rows_of
from stages.readers.score import Floats, Numbers
from stages.samples.paint import Painter

EMBEDDED = 256
"""Samples that are embedded at once."""
MOST = 5_000
"""Held-out images that ranks are counted among, at most."""


@dataclass(frozen=True)
class Material:
    """What is read of a finished study."""

    decoders: Sequence[Input]
    """A decoder and its extensions."""
    specs: Mapping[str, EncoderSpec]
    """The encoders by the study's names for them."""
    encoders: Mapping[str, Input]
    """The artifacts of those that were trained or imported."""
    embeddings: Mapping[str, Input]
    """The embeddings of all images, by encoder."""
    shards: Input
    scaled: bool
    """How the study decodes JPEGs, see `stages.images.image_file.decode_fit`."""


@dataclass(frozen=True)
class ShownTap:
    """Samples of every image at one tap."""

    id: str
    """`encoder:tap`."""
    samples: NDArray[np.uint8]
    """[N, K, size, size, 3]."""
    distances: Floats
    """From the vector of each sample to that of its image, standardised, in distances of two held-out images: float64
    [N, K], as in the question faithfulness."""
    ranks: Floats
    """Of the image among itself and the held-out images, by their distance to the sample: float64 [N, K], 1 is best."""
    attainable: Floats
    """The distance of the image itself at the decoder's resolution, float64 [N]: samples can hardly come nearer. 0
    where the encoder sees no more pixels than the decoder paints."""


@dataclass(frozen=True)
class Shown:
    """Images and their samples. In a notebook it is shown as the picture of `png`."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]
    """As the decoder would paint them: uint8 [N, size, size, 3]."""
    taps: tuple[ShownTap, ...]
    gallery: int
    """Held-out images that ranks are counted among."""
    about: str
    """The study, and how samples were painted, in words."""

    def png(self) -> bytes:
        """A picture: a row for each tap of each image, the image first."""
        from stages.show.sheet import draw

        return draw(self)

    def page(self) -> bytes:
        """A page in one file, with distances and ranks beside the samples."""
        from stages.show.page import render

        return render(self)

    def _repr_png_(self) -> bytes:
        return self.png()


class Networks:
    """The decoders and encoders of a study: each is loaded when it is first used, and then kept."""

    def __init__(
        self,
        study: Material,
        device: str,
        taps: Sequence[str] = (),
        encoder: Callable[[str], Encoder] | None = None,
    ) -> None:
        """Networks run on `device`. `taps`: no others are painted (none: all). `encoder` loads one by its name."""
        self.study = study
        cards = [read_card(decoder) for decoder in study.decoders]
        self.size = cards[0].size
        """Side of what is painted, pixels."""
        self.decoder_of = {
            tap_id: number for number, card in enumerate(cards) for tap_id in card.taps if not taps or tap_id in taps
        }
        """Which of the decoders paints a tap, by `encoder:tap`."""
        self._device, self._load_encoder = device, encoder
        self._decoders: dict[int, AnyDecoder] = {}
        self._encoders: dict[str, Encoder] = {}

    @property
    def readable(self) -> list[str]:
        """The painted taps that read pixels, by the tables of embeddings: no encoder is loaded for it."""
        study = self.study
        return [
            tap_id
            for name in study.specs
            if name in study.embeddings
            for tap in Fingerprint.model_validate(open_table(study.embeddings[name]).attributes["fingerprint"]).probe
            if (tap_id := f"{name}:{tap}") in self.decoder_of
        ]

    def decoder(self, tap_id: str) -> AnyDecoder:
        """The decoder that paints a tap."""
        number = self.decoder_of[tap_id]
        if number not in self._decoders:
            self._decoders[number] = load_decoder(self.study.decoders[number], self._device)
        return self._decoders[number]

    def encoder(self, name: str) -> Encoder:
        """An encoder by the study's name for it."""
        if name not in self._encoders:
            self._encoders[name] = self._load_encoder(name) if self._load_encoder else self._read_encoder(name)
        return self._encoders[name]

    def _read_encoder(self, name: str) -> Encoder:
        artifacts = self.study.encoders
        return load_encoder(
            self.study.specs[name], {"encoder": artifacts[name]} if name in artifacts else {}, self._device
        )

    def embed(self, name: str, images: Mapping[str, bytes]) -> dict[str, NDArray[np.float32]]:
        """The vectors of images at the painted taps of an encoder that read pixels, by `encoder:tap`, [N, D]."""
        encoder = self.encoder(name)
        framing = encoder.preprocessing.framing
        # Stacked, since torch warns of an image that cannot be written to.
        seen = np.stack([image_file.decode_fit(data, framing, scaled=self.study.scaled) for data in images.values()])
        vectors = {f"{name}:{tap}": found for tap, found in encoder.embed(seen).items()}
        return {tap_id: found for tap_id, found in vectors.items() if tap_id in self.decoder_of}


def show(
    images: Mapping[str, bytes],
    networks: Networks,
    taps: Sequence[str],
    paint: Painter,
    about: str = "",
) -> Shown:
    """Paints samples of each image, by name, at each of `taps` (none: all that read pixels).

    Raises InputError for an unknown tap, one that does not read pixels, a bad image, and what `paint` refuses.
    """
    study, readable = networks.study, networks.readable
    if not readable:
        raise InputError(
            "a decoder with a tap that reads pixels",
            f"taps that know an image by its row alone, {', '.join(sorted(networks.decoder_of))}",
            "Show with a study that has an encoder.",
        )
    for tap_id in taps:
        if tap_id not in readable:
            raise InputError(f"taps that read pixels, {', '.join(readable)}", tap_id, "Name one of these.")
    wanted = list(taps) or readable
    pictures = np.stack([image_file.decode_fit(data, networks.size, scaled=study.scaled) for data in images.values()])
    gallery = _gallery(study.shards)
    shown: dict[str, ShownTap] = {}
    for name in dict.fromkeys(tap_id.partition(":")[0] for tap_id in wanted):
        vectors, encoder = networks.embed(name, images), networks.encoder(name)
        coarse = encoder.embed(pictures) if encoder.preprocessing.framing.size > networks.size else None
        for tap_id in (tap_id for tap_id in wanted if tap_id in vectors and tap_id not in shown):
            samples = paint(networks.decoder(tap_id), tap_id, vectors[tap_id])
            near = _Nearness(study.embeddings[name], tap_id, gallery, vectors[tap_id])
            shown[tap_id] = near.of(encoder, samples, coarse)
    return Shown(tuple(images), pictures, tuple(shown[tap_id] for tap_id in wanted), len(gallery), about)


def _gallery(shards: Input) -> Numbers:
    """Rows of the held-out images that ranks are counted among, evenly spaced where there are more than `MOST`."""
    rows = rows_of(shards, "heldout")
    return rows[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(np.int64)]


class _Nearness:
    """How near samples come to their images at one tap, in the space that the decoder sees, standardised."""

    def __init__(self, embeddings: Input, tap_id: str, gallery: Numbers, sources: NDArray[np.float32]) -> None:
        table = open_table(embeddings)
        self._tap_id, tap = tap_id, tap_id.partition(":")[2]
        self._tap = tap
        self._statistics = table.statistics(tap)
        self._sources = self._standard(sources)
        self._gallery = self._standard(table.read(tap, "plain", gallery))
        self._unit = measures.random_pair(self._gallery)

    def of(
        self, encoder: Encoder, samples: NDArray[np.uint8], coarse: Mapping[str, NDArray[np.float32]] | None
    ) -> ShownTap:
        """`samples` uint8 [N, K, S, S, 3], `coarse` the images embedded at the decoder's resolution, by tap [N, D]."""
        count, each = samples.shape[:2]
        flat = samples.reshape(-1, *samples.shape[2:])
        embedded = np.concatenate(
            [encoder.embed(flat[at : at + EMBEDDED])[self._tap] for at in range(0, len(flat), EMBEDDED)]
        )
        vectors = self._standard(embedded).reshape(count, each, -1)
        own = len(self._gallery)
        ranks = [
            measures.ranks(near, np.concatenate([self._gallery, source[None]]), np.full(each, own))
            for near, source in zip(vectors, self._sources, strict=True)
        ]
        apart = measures.l2(vectors, self._sources[:, None]) / self._unit
        attainable = np.zeros(count)
        if coarse is not None:
            attainable = measures.l2(self._standard(coarse[self._tap]), self._sources) / self._unit
        return ShownTap(self._tap_id, samples, apart, np.stack(ranks), attainable)

    def _standard(self, vectors: NDArray[np.float32]) -> Floats:
        return self._statistics.standardise(vectors).astype(np.float64)
