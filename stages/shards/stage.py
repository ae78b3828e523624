"""The stage `shards`: the sound images of a listing as tars."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter

from stages import attributes
from stages.contract import Added, Estimate, Input, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.datasets.files import FileReader, FilesSource, Wanted
from stages.datasets.sources import CataloguedSource, DatasetSource
from stages.errors import InputError
from stages.external.ranges import Unreadable
from stages.listing import ATTRIBUTES, LISTING_ROWS, OK

if TYPE_CHECKING:
    import pyarrow as pa

TAR_LIMIT_BYTES = 2**30
"""No object of a store is larger."""


class Shards(Stage):
    """Packs the sound images of a listing as tars; input `listing`.

    Writes `shard-00000.tar` … (webdataset's layout, original bytes for JPEG and PNG), `index.parquet` and
    `attributes.json`. Rows of bad images stand in the index with offset -1 and in no tar. The index and
    the records in tars name classes: `shape` is `disc` and not a number.
    """

    name: ClassVar[str] = "shards"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = True

    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Rows of one tar, of one part of every later step, and of one shard of the embeddings."""
    decode: Annotated[Literal["exact", "scaled"], Added(when_absent="exact")] = "exact"
    """How later steps decode the images. `scaled`: JPEGs that are far larger than what a step wants are decoded at a
    half, a quarter or an eighth of their size (see `stages.images.image_file.decode_fit`)."""

    source: Annotated[dict[str, Any] | None, Unkeyed("its images are those of the listing, or refused")] = None
    """Where the images are read from; by default where the study's listing has read them."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Measured on small images and on collages: their bytes, by default 0.8 KB, and 1.5 KB of tar around each."""
        listing = upstream["listing"]
        size = listing.rows * (1500 + (800 if listing.image_bytes is None else listing.image_bytes))
        seconds = 3.0 + listing.rows * (5e-4 + listing.drawing_seconds)
        return Estimate(rows=listing.rows, size_bytes=round(size), cpu_seconds=seconds)

    def split(self, inputs: Inputs) -> list[Part]:
        """One part for each tar."""
        count = inputs["listing"].summary["rows"]
        return [
            Part(index=start // self.shard_rows, fields={"start": start, "stop": min(start + self.shard_rows, count)})
            for start in range(0, count, self.shard_rows)
        ]

    def setup(self, inputs: Inputs, device: str) -> CataloguedSource | FileReader:
        """The source that was listed, or what reads its files."""
        source: DatasetSource = TypeAdapter(DatasetSource).validate_python(
            self.source or inputs["listing"].summary["source"]
        )
        return source.reader() if isinstance(source, FilesSource) else source

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Fetches the images of one tar again, makes sure that they are those of the listing, and packs them."""
        import hashlib

        from stages.images.image_file import decode
        from stages.images.pixels import encode_png
        from stages.listing.members import ListingRows
        from stages.shards.format import KEPT, key_of, shard_name, write_tar

        start, stop = part.fields["start"], part.fields["stop"]
        members = ListingRows(inputs["listing"], LISTING_ROWS).read(start, stop).to_pylist()
        sound = [member for member in members if member["status"] == OK]
        size = sum(member["size"] for member in sound)
        if size > TAR_LIMIT_BYTES:
            raise InputError(
                f"tars of at most {TAR_LIMIT_BYTES} bytes",
                f"{len(sound)} images of {size} bytes for {shard_name(part.index)}",
                f"Set `shard_rows` to {max(1, self.shard_rows * TAR_LIMIT_BYTES // (2 * size))} or less.",
            )
        known = attributes.load(inputs["listing"].read(ATTRIBUTES))
        labelled = attributes.labels(
            known, {a.name: [member[attributes.PREFIX + a.name] for member in sound] for a in known}
        )
        samples: list[tuple[str, str, bytes, dict[str, Any]]] = []
        converted: dict[str, tuple[int, str]] = {}
        fetched = _fetch(state, sound)
        for member, data in zip(sound, fetched, strict=True):
            if isinstance(data, Unreadable) or hashlib.sha256(data).hexdigest() != member["sha256"]:
                found = data.reason if isinstance(data, Unreadable) else "other bytes"
                raise InputError(
                    f"{member['name']} as it was when it was listed",
                    found,
                    "The source has changed: run again with --force listing.",
                )
            ending = member["format"]
            if ending not in KEPT:
                data, ending = encode_png(decode(data, 2**62)), "png"
                converted[str(member["row"])] = (len(data), hashlib.sha256(data).hexdigest())
            record = {"row": member["row"], "file_name": member["name"]}
            record |= {name: member[name] for name in ("split", "width", "height")}
            record |= {name: column[len(samples)].as_py() for name, column in labelled.items()}
            samples.append((key_of(member["row"]), ending, data, record))
        offsets: list[int] = []
        written = 0
        if samples:
            tar, offsets = write_tar(samples)
            written = len(out.put(shard_name(part.index), tar))
        return {"rows": len(members), "ok": len(sound), "bytes": written, "offsets": offsets, "converted": converted}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes the index."""
        from stages.images.sets import DECODE, FORMAT, INDEX, INDEX_FORMAT, PART_ROWS, SCALED
        from stages.listing.members import publish

        listing = inputs["listing"]
        rows = sum(summary["rows"] for summary in summaries)
        metadata = {FORMAT: str(INDEX_FORMAT).encode(), PART_ROWS: str(self.shard_rows).encode()}
        metadata |= {DECODE: SCALED} if self.decode == "scaled" else {}
        counts: Counter[str] = Counter()
        publish(out, INDEX, self._index(summaries, listing, rows, counts), metadata)
        out.put(ATTRIBUTES, listing.read(ATTRIBUTES))
        return {
            "rows": rows,
            "ok": sum(counts.values()),
            "train": counts["train"],
            "heldout": counts["heldout"],
            **({"unseen": counts["unseen"]} if counts["unseen"] else {}),
            "bytes": sum(summary["bytes"] for summary in summaries),
            **{name: listing.summary[name] for name in ("left_out",) if name in listing.summary},
        }

    def _index(
        self, summaries: Sequence[Summary], listing: Input, rows: int, counts: "Counter[str]"
    ) -> "Iterator[pa.Table]":
        """The index, tar by tar; `counts` the sound images of each split."""
        from stages.listing.members import ListingRows
        from stages.shards.format import KIND, index_of, key_of, shard_name

        known = attributes.load(listing.read(ATTRIBUTES))
        rows_of = ListingRows(listing, LISTING_ROWS)
        for part, summary in enumerate(summaries):
            start = part * self.shard_rows
            listed = rows_of.read(start, min(start + self.shard_rows, rows)).to_pydict()
            offsets = iter(summary["offsets"])
            for row, (size, digest) in summary["converted"].items():
                listed["size"][int(row) - start], listed["sha256"][int(row) - start] = size, digest
            sound = [status == OK for status in listed["status"]]
            counts.update(split for split, ok in zip(listed["split"], sound, strict=True) if ok)
            columns: dict[str, Any] = {
                "row": listed["row"],
                "key": [key_of(row) for row in listed["row"]],
                "kind": [KIND] * len(sound),
                "shard": [shard_name(part)] * len(sound),
                "offset": [next(offsets) if ok else -1 for ok in sound],
            }
            columns |= {"bytes": listed["size"], "sha256": listed["sha256"], "split": listed["split"]}
            columns |= {n: listed[n] for n in ("width", "height", "status")} | {"file_name": listed["name"]}
            labelled = attributes.labels(known, {a.name: listed[attributes.PREFIX + a.name] for a in known})
            yield index_of(columns, labelled)


def _fetch(state: CataloguedSource | FileReader, members: Sequence[Mapping[str, Any]]) -> Iterator[bytes | Unreadable]:
    """The images of these rows of a listing again."""
    if isinstance(state, FileReader):
        return state.fetch([Wanted(m["source"], m["position"], m["size"]) for m in members])
    return state.fetch([m["row"] for m in members], [m["name"] for m in members])
