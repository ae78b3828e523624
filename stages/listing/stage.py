"""The stage `listing`: what is in a source, is each image sound, is it held out."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt

from stages import attributes
from stages.contract import Added, Estimate, External, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.datasets.columns import Split
from stages.datasets.files import FileReader, FilesSource, Notes
from stages.datasets.sources import Catalogue, CataloguedSource, CollageSource, DatasetSource
from stages.errors import InputError, without_credentials
from stages.external.passed_over import PassedOver
from stages.external.ranges import FILE_LIMIT_BYTES, FileInfo, Unreadable, readable
from stages.images.image_file import PIXEL_LIMIT
from stages.listing import ATTRIBUTES, LISTING_ROWS, OK
from stages.listing.classes import ClassCounts, alike
from stages.listing.unseen import UNSEEN, Combinations, check, first_met, named, word

NAMED = 5
"""Bad images that a message names."""

NAMED_UNREAD = 10
"""Columns that nobody asked for which a message names."""


class Listing(Stage):
    """Reads every image of a source once.

    Writes `listing.parquet` (row, source, name, size, sha256, split, width, height, format, status, attribute.*; where
    files hold many images each, `source` is the file and `position` says where in it), the parts it is made of,
    `members-00000.parquet` …, and `attributes.json`. An image that cannot be used keeps its row, and `status` says why.
    """

    name: ClassVar[str] = "listing"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    source: DatasetSource
    holdout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.17
    """Share of images that no training sees. An image's own sha256 decides, so that adding images moves none and equal
    images stay together; the share is met in the mean."""
    unseen: Annotated[Combinations, Added(when_absent=())] = ()
    """Combinations of attributes that neither encoders nor the decoder are trained on, for the question *shift*: by
    attribute the names of classes, or of a number its lower and its upper end. An image that meets all values of any
    combination is neither a train image nor a held-out one, whatever `holdout` says."""
    pixel_limit: PositiveInt = PIXEL_LIMIT
    """Width x height above which an image is refused before it is decoded."""
    max_bad: Annotated[float, Field(ge=0.0, le=1.0), Unkeyed("it decides only whether the listing is accepted")] = 0.001
    """Share of images that may be bad."""

    def external(self) -> Mapping[str, External]:
        """The folder, if images come from one."""
        return self.source.external()

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Counts the source, or guesses from one of its files; measured on small PNGs, on photographs as JPEG, and on
        collages of 64 to 224 pixels.
        """
        drawing, image_bytes = 0.0, None
        if isinstance(self.source, FilesSource):
            rows, size = self.source.expected_rows(), sum(info.size for info in self.source.files())
            left_out = _left_out(self.source.passed_over())
        else:
            catalogue = self.source.catalogue()
            rows, size = len(catalogue.names), sum(catalogue.sizes)
            left_out = _left_out(catalogue.passed_over, catalogue.without_images, _notes(catalogue))
        seconds = 0.5 + rows * 5e-4 + size * 3e-8
        if isinstance(self.source, CollageSource):
            drawing, pixels = self.source.drawing_seconds(), self.source.size**2
            image_bytes = 1.7 * pixels
            # Besides drawing: the values of the attributes, which are read off the cut-out, and decoding.
            seconds += rows * (drawing + 1e-3 + 2e-7 * pixels)
        elif size:
            image_bytes = size / max(rows, 1)
        return Estimate(
            rows=rows,
            size_bytes=rows * 220,
            cpu_seconds=seconds,
            image_bytes=image_bytes,
            drawing_seconds=drawing,
            warnings=tuple(_lines(left_out)),
        )

    def split(self, inputs: Inputs) -> list[Part]:
        """One part for each file of images; else runs of rows, with a digest of their names, for the source may
        change before it is worked.
        """
        if isinstance(self.source, FilesSource):
            return [
                Part(index=index, fields={"file": info.name, "size": info.size})
                for index, info in enumerate(self.source.files())
            ]
        catalogue = self.source.catalogue()
        count = len(catalogue.names)
        return [
            Part(index=start // LISTING_ROWS, fields=_run(catalogue, start, min(start + LISTING_ROWS, count)))
            for start in range(0, count, LISTING_ROWS)
        ]

    def setup(self, inputs: Inputs, device: str) -> Catalogue | FileReader:
        """The source's catalogue, or what reads its files."""
        return self.source.reader() if isinstance(self.source, FilesSource) else self.source.catalogue()

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Reads, hashes, decodes and judges the images of one part."""
        if isinstance(self.source, FilesSource):
            return self._work_file(part, state, out)
        return self._work_rows(self.source, part, state, out)

    def _work_rows(self, source: CataloguedSource, part: Part, catalogue: Catalogue, out: Output) -> Summary:
        from stages.listing.format import members_name, write_table

        start, stop = part.fields["start"], part.fields["stop"]
        if part.fields != _run(catalogue, start, stop):
            raise _changed("other files in it")
        rows, names = range(start, stop), list(catalogue.names[start:stop])
        from_table = {} if catalogue.labels is None else catalogue.labels.values
        values = source.values(rows, names, [a for a in catalogue.attributes if a.name not in from_table])
        values |= {name: column[start:stop] for name, column in from_table.items()}
        heldout = None if catalogue.labels is None else catalogue.labels.heldout
        check(self.unseen, catalogue.attributes, "the source")
        columns: dict[str, Any] = {"row": list(rows), "source": [source.kind] * len(rows), "name": []}
        for name in ("size", "sha256", "split", "width", "height", "format", "status"):
            columns[name] = []

        refused = {row: reason for row, name in zip(rows, names, strict=True) if (reason := _refused(catalogue, row))}
        fetched = source.fetch(
            [row for row in rows if row not in refused],
            [name for row, name in zip(rows, names, strict=True) if row not in refused],
        )
        tally = _Tally(len(self.unseen))
        for row, name in zip(rows, names, strict=True):
            data = Unreadable(refused[row]) if row in refused else next(fetched)
            record = self._judge(name, data, None if heldout is None else "heldout" if heldout[row] else "train")
            if self.unseen:
                own = named(catalogue.attributes, values, row - start)
                self._hold_out(record, first_met(self.unseen, catalogue.attributes, own), tally)
            tally.add(record)
            for column, value in record.items():
                columns[column].append(value)
        for attribute in catalogue.attributes:
            columns[attributes.PREFIX + attribute.name] = values[attribute.name]
        out.put(members_name(part.index), write_table(columns))
        if part.index == 0:
            out.put(ATTRIBUTES, attributes.dump(catalogue.attributes))
        if part.index > 0:
            return tally.summary()
        lost = {"without_images": list(catalogue.without_images)}
        return tally.summary() | _ignored(catalogue.passed_over) | lost | {"notes": _notes(catalogue)}

    def _work_file(self, part: Part, reader: FileReader, out: Output) -> Summary:
        from stages.listing.format import members_name
        from stages.listing.members import FileTable

        meant = FileInfo(part.fields["file"], part.fields["size"])
        info = reader.info(meant.name)
        if info != meant:
            raise _changed(f"{info.name} of {info.size} bytes and not {meant.size}")
        tally, notes = _Tally(len(self.unseen)), Notes()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / members_name(part.index)
            declared = reader.declared(info)
            check(self.unseen, declared, info.name)
            with FileTable(path, declared, LISTING_ROWS) as table:
                for found in reader.read(info, notes):
                    record = self._judge(found.name, found.data, found.split)
                    if self.unseen:
                        self._hold_out(record, first_met(self.unseen, declared, found.values), tally)
                    tally.add(record)
                    table.add({"source": info.name, "position": found.position} | record, found.values)
            out.put(path.name, path)
        if part.index == 0 and isinstance(self.source, FilesSource):
            beside = self.source.passed_over()
            notes.passed_over.merge(beside.counts, beside.examples)
        left = {"columns": sorted(notes.columns), "unread": sorted(notes.unread)}
        return tally.summary() | _ignored(notes.passed_over) | left

    def _judge(self, name: str, data: bytes | Unreadable, split: str | None) -> dict[str, Any]:
        """What the listing says of an image; `split` None: its own bytes decide."""
        import hashlib

        from stages.images.image_file import inspect

        size, digest, width, height, ending, status = 0, "", 0, 0, "", OK
        if isinstance(data, Unreadable):
            status = data.reason
        else:
            size, digest = len(data), hashlib.sha256(data).hexdigest()
            try:
                header = inspect(data, self.pixel_limit)
                width, height, ending = header.width, header.height, header.ending
            except InputError as error:
                status = error.found
        if split is None:
            split = "heldout" if digest and int(digest[:16], 16) < self.holdout * 2.0**64 else "train"
        return {
            "name": readable(name),
            "size": size,
            "sha256": digest,
            "split": split,
            "width": width,
            "height": height,
            "format": ending,
            "status": status,
        }

    def _hold_out(self, record: dict[str, Any], met: int | None, tally: "_Tally") -> None:
        """Takes an image out of both splits where it has the combination number `met`."""
        if met is not None:
            tally.see(record["split"] == "heldout")
            record["split"] = UNSEEN
            tally.unseen[met] += record["status"] == OK

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes `listing.parquet`, and returns totals.

        Raises InputError where more than `max_bad` of the images are bad, a split or a combination of `unseen` has
        none, or files disagree about their columns.
        """
        from stages.listing.members import LISTING, merge_files, merge_rows, publish

        total: Counter[str] = Counter()
        passed_over, without_images, notes = PassedOver(), list[str](), list[str]()
        for summary in summaries:
            total.update({name: summary[name] for name in ("rows", "bad", "heldout")})
            passed_over.merge(summary.get("ignored", {}), summary.get("ignored_examples", {}))
            without_images += summary.get("without_images", [])
            notes += summary.get("notes", [])
        bad = [f"{name} ({reason})" for summary in summaries for name, reason in summary["first_bad"]][:NAMED]
        split = getattr(self.source, "split", None)
        if isinstance(split, Split) and total["rows"] and not any(summary["split_fits"] for summary in summaries):
            raise split.nothing_held_out("the source", ())
        unseen = [sum(counts) for counts in zip(*(summary.get("unseen", ()) for summary in summaries), strict=True)]
        self._accept(total, bad, passed_over.counts, unseen)
        if isinstance(self.source, FilesSource):
            columns = {name for summary in summaries for name in summary["columns"]}
            known, rows = merge_files(out, len(summaries), columns)
            out.put(ATTRIBUTES, attributes.dump(known))
            unread = sorted(set().union(*(summary.get("unread", ()) for summary in summaries)))
            if not known and getattr(self.source, "columns", None) is None:
                names = ", ".join(unread[:NAMED_UNREAD]) + (", …" if len(unread) > NAMED_UNREAD else "")
                notes.append("no image has a label" + (f"; {names} beside the images are not read" if unread else ""))
            notes += alike(known)
        else:
            known = attributes.load(out.read(ATTRIBUTES))
            rows = merge_rows(out, len(summaries))
        counts = ClassCounts(known)
        publish(out, LISTING, counts.counting(rows))
        notes += counts.sentences(held_out=total["heldout"] > 0)
        left_out = _left_out(passed_over, without_images, notes)
        summary = {
            **total,
            "first_bad": bad,
            "ignored": dict(sorted(passed_over.counts.items())),
            "source": without_credentials(self.source.model_dump(mode="json")),
        }
        if passed_over.examples:
            summary["ignored_examples"] = dict(sorted(passed_over.examples.items()))
        # Only where there is something to say: else a listing made anew has the summary that it always had.
        if unseen:
            summary["unseen"] = sum(unseen)
        return summary | ({"left_out": left_out, "headlines": _lines(left_out)} if left_out else {})

    def _accept(
        self, total: Mapping[str, int], bad: Sequence[str], ignored: Mapping[str, int], unseen: Sequence[int]
    ) -> None:
        """Raises InputError where the images are too few or too bad."""
        if not total["rows"]:
            others = ", ".join(f"{count} x {ending}" for ending, count in sorted(ignored.items())[:NAMED])
            raise InputError("images in the source", f"none{f' among {others}' if others else ''}", "Correct `url`.")
        if total["bad"] > self.max_bad * total["rows"]:
            more = f" and {total['bad'] - NAMED} more" if total["bad"] > NAMED else ""
            raise InputError(
                f"at most {self.max_bad:.2%} bad images",
                f"{total['bad']} of {total['rows']}: {'; '.join(bad)}{more}",
                "Replace or remove them, or raise `max_bad`.",
            )
        for combination, count in zip(self.unseen, unseen, strict=True):
            if not count:
                values = ", ".join(f"{name} {' '.join(map(word, wanted))}" for name, wanted in combination.items())
                raise InputError(f"images that `unseen` names by {values}", "none", "Correct `unseen`.")
        train = total["rows"] - total["bad"] - total["heldout"] - sum(unseen)
        if train == 0 or (total["heldout"] == 0 and self.holdout > 0):
            raise InputError(
                f"images to train on and images held out, of {total['rows']} with `holdout: {self.holdout}`",
                f"{train} to train on and {total['heldout']} held out",
                "Give more images, or change `holdout`.",
            )


class _Tally:
    """What a part of a listing says of itself."""

    def __init__(self, combinations: int) -> None:
        self._counts = dict.fromkeys(("rows", "bad", "heldout"), 0)
        self._first_bad: list[tuple[str, str]] = []
        self._split_fits = False
        self.unseen = [0] * combinations
        """Sound images of each combination that is not to be seen; the first that an image has counts."""

    def see(self, heldout: bool) -> None:
        """Notes whether the source's own split would hold out an image, whatever becomes of it."""
        self._split_fits |= heldout

    def add(self, record: Mapping[str, Any]) -> None:
        """One image."""
        sound = record["status"] == OK
        self._counts["rows"] += 1
        # Bad ones too: whether `split` names what is there does not depend on the images.
        self.see(record["split"] == "heldout")
        self._counts["bad"] += not sound
        self._counts["heldout"] += sound and record["split"] == "heldout"
        if not sound and len(self._first_bad) < NAMED:
            self._first_bad.append((record["name"], record["status"]))

    def summary(self) -> Summary:
        """Counts, and the first bad images with their reasons."""
        found = {**self._counts, "first_bad": self._first_bad, "split_fits": self._split_fits}
        return found | ({"unseen": self.unseen} if self.unseen else {})


def _ignored(passed_over: PassedOver) -> dict[str, Any]:
    """Files that are not read, as a part's summary has them; listings of before have the counts only."""
    return {
        "ignored": dict(sorted(passed_over.counts.items())),
        "ignored_examples": dict(sorted(passed_over.examples.items())),
    }


def _notes(catalogue: Catalogue) -> list[str]:
    return [*catalogue.notes, *alike(catalogue.attributes)]


def _left_out(passed_over: PassedOver, without_images: Sequence[str] = (), notes: Sequence[str] = ()) -> list[str]:
    """Sentences on what a listing leaves out."""
    found = [*passed_over.sentences(), *notes]
    if without_images:
        names = ", ".join(without_images[:NAMED]) + (", …" if len(without_images) > NAMED else "")
        found.append(f"folders without an image that is read, which are no classes: {names}")
    return found


def _lines(left_out: Sequence[str]) -> list[str]:
    """The same for a terminal."""
    return [f"listing: {sentence}" for sentence in left_out]


def _changed(found: str) -> InputError:
    return InputError("the source to stay as it was", found, "Let nobody change it, and run again.")


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
