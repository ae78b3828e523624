"""The card of a table of embeddings: what its vectors are, in words (`CARD.md`) and for programs (`card.json`).

An artifact is shared by all studies that have its key, so a card names neither a study nor the name that a study gives
its encoder: whoever reads or exports a table for a study adds them. Nor does a store know under which licence images or
weights are; `repscope export` takes the licence from who gives the vectors away.
"""

import json
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from stages.contract import Input
from stages.encoders.spec import Oracle

if TYPE_CHECKING:
    import pyarrow as pa

    from stages.embeddings.stage import Embeddings
    from stages.encoders.encoder import Fingerprint

MARKDOWN, JSON = "CARD.md", "card.json"
FORMAT = 1
UNITS = "activations of the network as they are, neither centred nor scaled"
TRUTH = "the true attributes (one-hot, cosine and sine, or as they are) and pixels in [0, 1]"
METRIC = "Euclidean (L2)"
LICENCE = "not recorded; those of the images and of the encoder's weights hold"


class Card(BaseModel):
    """What a table says of itself. Every field stands in `card.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    kind: str
    """What a row is: `image`, or `sample` (an image that a decoder painted)."""
    rows: int
    embedded: int
    """Rows that have a vector; the others are NaN, and `status` says why."""
    splits: dict[str, int]
    taps: dict[str, int]
    """Tap -> width."""
    views: tuple[str, ...]
    dtype: str
    units: str
    metric: str = METRIC
    preprocessing: str
    """How the encoder saw an image, in words."""
    encoder: str
    """What the encoder is and where it comes from, in words."""
    weights_sha256: str
    precision: str
    """What the encoder computed in."""
    images_key: str
    encoder_key: str | None
    licence: str = LICENCE

    @classmethod
    def of(
        cls,
        stage: "Embeddings",
        fingerprint: "Fingerprint",
        rows: "pa.Table",
        embedded: int,
        images: Input,
        encoder: Input | None,
    ) -> "Card":
        """The card of a table whose `rows.parquet` is `rows`; `encoder` is its artifact where it is one."""
        splits: dict[str, int] = {}
        if "split" in rows.column_names:
            splits = {e["values"]: e["counts"] for e in rows.column("split").value_counts().to_pylist()}
        return cls(
            kind=rows.column("kind")[0].as_py(),
            rows=rows.num_rows,
            embedded=embedded,
            splits=dict(sorted(splits.items())),
            taps=fingerprint.taps,
            views=stage.views,
            dtype=stage.dtype,
            units=TRUTH if isinstance(stage.encoder, Oracle) else UNITS,
            preprocessing=fingerprint.preprocessing.words,
            encoder=stage.encoder.kind if encoder is None else _source(encoder),
            weights_sha256=fingerprint.weights_sha256,
            precision=fingerprint.precision,
            images_key=images.key,
            encoder_key=None if encoder is None else encoder.key,
        )

    def flat(self) -> dict[str, Any]:
        """The same as attributes of a Zarr group: texts, numbers and lists of them; what is None is left out."""
        document = self.model_dump(mode="json", exclude={"format", "splits", "taps"}, exclude_none=True)
        return document | {"taps": list(self.taps), "widths": list(self.taps.values())}

    def json_bytes(self) -> bytes:
        """`card.json`."""
        return self.model_dump_json(indent=1).encode()

    def markdown(self) -> bytes:
        """`CARD.md`."""
        taps = "\n".join(f"| {tap} | {width} |" for tap, width in self.taps.items())
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        views = " and ".join(self.views)
        number = "row" if self.kind == "image" else "sample"
        return f"""# Embeddings of {self.rows} {self.kind}s

Each {self.kind} is one {number} of every array `embeddings.zarr/<tap>/<view>` and one row of `rows.parquet`, in the
same order; `key` says which. {self.embedded} of them have a vector{f" ({splits})" if splits else ""}; the
others are NaN.

| tap | width |
|---|---|
{taps}

- Views: {views}. `flip` is the image mirrored left to right.
- Values: {self.dtype}, {self.units}. Compare them by {self.metric} distance.
- Preprocessing: {self.preprocessing}.
- Encoder: {self.encoder}, computed in {self.precision}; weights sha256 {self.weights_sha256}.
- Licence: {self.licence}.
- Made from images {self.images_key[:16]}{"" if self.encoder_key is None else f" and encoder {self.encoder_key[:16]}"}.

A missing Zarr chunk reads as NaN in every reader. `card.json` has the same for programs.
""".encode()


def _source(encoder: Input) -> str:
    """Where an encoder that is an artifact comes from."""
    from stages.encoders.card import CARD as IMPORTED
    from stages.encoders.card import parse_card
    from stages.encoders.format import CARD as TRAINED
    from stages.encoders.format import read_card

    if TRAINED in encoder.names():
        return f"trained here by {read_card(encoder).method}"
    source = parse_card(encoder.read(IMPORTED)).source
    return " ".join(["imported from", *(str(source[name]) for name in ("kind", "name") if source.get(name))])


def read(artifact: Input) -> dict[str, Any]:
    """`card.json` of a table, empty where it has none (format 1)."""
    return json.loads(artifact.read(JSON)) if JSON in artifact.names() else {}
