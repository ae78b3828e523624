"""The stages `listing` (what is in a source, is each image sound, is it held out) and `shards` (images as tars)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt, TypeAdapter

from stages import attributes
from stages.contract import Estimate, External, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.errors import InputError
from stages.pixels import PIXEL_LIMIT
from stages.shards.sources import FILE_LIMIT_BYTES, Catalogue, Source, Unreadable

LISTING_ROWS = 1024
"""Rows of one part of a listing."""

TAR_LIMIT_BYTES = 2**30
"""No object of a store is larger."""

NAMED = 5
"""Bad images that a message names."""

OK = "ok"


class Listing(Stage):
    """Looks at every image of a source once.

    Writes `members-00000.parquet` … (row, source, name, size, sha256, split, width, height, format, status,
    attribute.*) and `attributes.json`. An image that cannot be used keeps its row, and `status` says why.
    """

    name: ClassVar[str] = "listing"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    source: Source
    holdout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.17
    """Share of images that no training sees. An image's own sha256 decides, so that adding images moves none and equal
    images stay together; the share is met in the mean."""
    pixel_limit: PositiveInt = PIXEL_LIMIT
    """Width x height above which an image is refused before it is decoded."""
    max_bad: Annotated[float, Field(ge=0.0, le=1.0), Unkeyed("it decides only whether the listing is accepted")] = 0.001
    """Share of images that may be bad."""

    def external(self) -> Mapping[str, External]:
        """The folder, if images come from one."""
        return self.source.external()

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Counts the source; measured on small PNGs and on photographs as JPEG."""
        catalogue = self.source.catalogue()
        rows = len(catalogue.names)
        seconds = 0.5 + rows * 5e-4 + sum(catalogue.sizes) * 3e-8
        return Estimate(rows=rows, size_bytes=rows * 110, cpu_seconds=seconds)

    def split(self, inputs: Inputs) -> list[Part]:
        """Runs of rows; each carries a digest of its names, for the source may change before it is worked."""
        catalogue = self.source.catalogue()
        count = len(catalogue.names)
        return [
            Part(index=start // LISTING_ROWS, fields=_run(catalogue, start, min(start + LISTING_ROWS, count)))
            for start in range(0, count, LISTING_ROWS)
        ]

    def setup(self, inputs: Inputs, device: str) -> Catalogue:
        """The source's catalogue."""
        return self.source.catalogue()

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Reads, hashes, decodes and judges the images of one run of rows."""
        import hashlib

        from stages.pixels import inspect
        from stages.shards.format import members_name, write_table

        catalogue: Catalogue = state
        start, stop = part.fields["start"], part.fields["stop"]
        if part.fields != _run(catalogue, start, stop):
            raise InputError(
                "the source to stay as it was", "other files in it", "Let nobody change it, and run again."
            )
        rows, names = range(start, stop), list(catalogue.names[start:stop])
        values = self.source.values(rows, names, catalogue.attributes)
        columns: dict[str, Any] = {"row": list(rows), "source": [self.source.kind] * len(rows), "name": []}
        for name in ("size", "sha256", "split", "width", "height", "format", "status"):
            columns[name] = []

        refused = {row: reason for row, name in zip(rows, names, strict=True) if (reason := _refused(catalogue, row))}
        fetched = self.source.fetch(
            [row for row in rows if row not in refused],
            [name for row, name in zip(rows, names, strict=True) if row not in refused],
        )
        for row, name in zip(rows, names, strict=True):
            data = Unreadable(refused[row]) if row in refused else next(fetched)
            width, height, ending, status = 0, 0, "", OK
            if isinstance(data, Unreadable):
                size, digest, status = 0, "", data.reason
            else:
                size, digest = len(data), hashlib.sha256(data).hexdigest()
                try:
                    header = inspect(data, self.pixel_limit)
                    width, height, ending = header.width, header.height, header.ending
                except InputError as error:
                    status = error.found
            heldout = bool(digest) and int(digest[:16], 16) < self.holdout * 2.0**64
            columns["name"].append(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
            columns["size"].append(size)
            columns["sha256"].append(digest)
            columns["split"].append("heldout" if heldout else "train")
            columns["width"].append(width)
            columns["height"].append(height)
            columns["format"].append(ending)
            columns["status"].append(status)
        for attribute in catalogue.attributes:
            columns[attributes.PREFIX + attribute.name] = values[attribute.name]
        out.put(members_name(part.index), write_table(columns))

        bad = [entry for entry in zip(columns["name"], columns["status"], strict=True) if entry[1] != OK]
        summary: Summary = {
            "rows": len(rows),
            "bad": len(bad),
            "heldout": sum(
                s == "heldout" and t == OK for s, t in zip(columns["split"], columns["status"], strict=True)
            ),
            "first_bad": bad[:NAMED],
        }
        if part.index == 0:
            out.put("attributes.json", attributes.dump(catalogue.attributes))
            summary["ignored"] = dict(catalogue.ignored)
        return summary

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Totals. Raises InputError where more than `max_bad` of the images are bad, or a split has none."""
        total: Counter[str] = Counter()
        for summary in summaries:
            total.update({name: summary[name] for name in ("rows", "bad", "heldout")})
        bad = [f"{name} ({reason})" for summary in summaries for name, reason in summary["first_bad"]]
        if total["bad"] > self.max_bad * total["rows"]:
            more = f" and {total['bad'] - NAMED} more" if total["bad"] > NAMED else ""
            raise InputError(
                f"at most {self.max_bad:.2%} bad images",
                f"{total['bad']} of {total['rows']}: {'; '.join(bad[:NAMED])}{more}",
                "Replace or remove them, or raise `max_bad`.",
            )
        train = total["rows"] - total["bad"] - total["heldout"]
        if train == 0 or (total["heldout"] == 0 and self.holdout > 0):
            raise InputError(
                f"images to train on and images held out, of {total['rows']} with `holdout: {self.holdout}`",
                f"{train} to train on and {total['heldout']} held out",
                "Give more images, or change `holdout`.",
            )
        return {
            **total,
            "first_bad": bad[:NAMED],
            "ignored": summaries[0]["ignored"],
            "source": self.source.model_dump(mode="json"),
        }


class Shards(Stage):
    """Packs the sound images of a listing as tars; input `listing`.

    Writes `shard-00000.tar` … (webdataset's layout, original bytes for JPEG and PNG), `index.parquet` and
    `attributes.json`. Rows of bad images stand in the index with offset -1 and in no tar.
    """

    name: ClassVar[str] = "shards"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    shard_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Rows of one tar, of one part of every later step, and of one shard of the embeddings."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Measured on small images: their bytes, and 1.5 KB of tar around each."""
        rows = upstream["listing"].rows
        return Estimate(rows=rows, size_bytes=rows * 2300, cpu_seconds=3.0 + rows * 5e-4)

    def split(self, inputs: Inputs) -> list[Part]:
        """One part for each tar."""
        count = inputs["listing"].summary["rows"]
        return [
            Part(index=start // self.shard_rows, fields={"start": start, "stop": min(start + self.shard_rows, count)})
            for start in range(0, count, self.shard_rows)
        ]

    def setup(self, inputs: Inputs, device: str) -> Source:
        """The source that was listed."""
        source: Source = TypeAdapter(Source).validate_python(inputs["listing"].summary["source"])
        return source

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Fetches the images of one tar again, makes sure that they are those of the listing, and packs them."""
        import hashlib

        from stages.pixels import decode, encode_png
        from stages.shards.format import KEPT, defined, key_of, read_members, shard_name, write_tar

        source: Source = state
        start, stop = part.fields["start"], part.fields["stop"]
        members = read_members(inputs["listing"], start, stop, LISTING_ROWS).to_pylist()
        sound = [member for member in members if member["status"] == OK]
        size = sum(member["size"] for member in sound)
        if size > TAR_LIMIT_BYTES:
            raise InputError(
                f"tars of at most {TAR_LIMIT_BYTES} bytes",
                f"{len(sound)} images of {size} bytes for {shard_name(part.index)}",
                f"Set `shard_rows` to {max(1, self.shard_rows * TAR_LIMIT_BYTES // (2 * size))} or less.",
            )
        samples = []
        converted: dict[str, tuple[int, str]] = {}
        fetched = source.fetch([member["row"] for member in sound], [member["name"] for member in sound])
        for member, data in zip(sound, fetched, strict=True):
            if isinstance(data, Unreadable) or hashlib.sha256(data).hexdigest() != member["sha256"]:
                found = data.reason if isinstance(data, Unreadable) else "other bytes"
                raise InputError(
                    f"{member['name']} as it was when it was listed",
                    found,
                    "The source changed: force its listing to be made anew.",
                )
            ending = member["format"]
            if ending not in KEPT:
                data, ending = encode_png(decode(data, 2**62)), "png"
                converted[str(member["row"])] = (len(data), hashlib.sha256(data).hexdigest())
            record = {name: member[name] for name in ("row", "name", "split", "width", "height")}
            record |= {name: defined(value) for name, value in member.items() if name.startswith(attributes.PREFIX)}
            samples.append((key_of(member["row"]), ending, data, record))
        offsets: list[int] = []
        written = 0
        if samples:
            tar, offsets = write_tar(samples)
            written = len(out.put(shard_name(part.index), tar))
        return {"rows": len(members), "ok": len(sound), "bytes": written, "offsets": offsets, "converted": converted}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes the index."""
        from stages.shards.format import key_of, read_members, shard_name, write_table

        listing = inputs["listing"]
        rows = sum(summary["rows"] for summary in summaries)
        listed = read_members(listing, 0, rows, LISTING_ROWS).to_pydict()
        offsets = iter([offset for summary in summaries for offset in summary["offsets"]])
        for summary in summaries:
            for row, (size, digest) in summary["converted"].items():
                listed["size"][int(row)], listed["sha256"][int(row)] = size, digest
        columns: dict[str, Any] = {
            "row": listed["row"],
            "key": [key_of(row) for row in listed["row"]],
            "shard": [shard_name(row // self.shard_rows) for row in listed["row"]],
            "offset": [next(offsets) if status == OK else -1 for status in listed["status"]],
        }
        columns |= {n: listed[n] for n in ("size", "sha256", "split", "width", "height", "status", "name")}
        columns |= {name: column for name, column in listed.items() if name.startswith(attributes.PREFIX)}
        out.put("index.parquet", write_table(columns, self.shard_rows))
        out.put("attributes.json", listing.read("attributes.json"))
        sound = [split for split, status in zip(listed["split"], listed["status"], strict=True) if status == OK]
        return {
            "rows": rows,
            "ok": len(sound),
            "train": sound.count("train"),
            "heldout": sound.count("heldout"),
            "bytes": sum(summary["bytes"] for summary in summaries),
        }


def _run(catalogue: Catalogue, start: int, stop: int) -> dict[str, Any]:
    return {"start": start, "stop": stop, "digest": catalogue.digest(start, stop)}


def _refused(catalogue: Catalogue, row: int) -> str | None:
    """Why an image is not even read."""
    name = catalogue.names[row]
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        return "a name that is no UTF-8"
    if catalogue.sizes and catalogue.sizes[row] > FILE_LIMIT_BYTES:
        return f"a file of {catalogue.sizes[row]} bytes, more than {FILE_LIMIT_BYTES}"
    return None
