"""A store opened for reading: which studies it holds, and the tables of embeddings of each, by the study's pointer.

    store = open("repscope-store")                  # a folder or a URL; nothing is written
    table = store.study("scenes")["simclr:projector"]

What a pointer names was committed by one run, so a study is read as that run left it, also while another is at work.
"""

import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.store import Store, open_store

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.artifact import StoredInput
    from pipeline.manifest import Ref
    from stages.embeddings.query import TapTable

STUDIES = "studies"
EMBEDDINGS, ENCODER, SHARDS = "embeddings.", "encoder.", "shards"


def open(url: str | Path) -> "OpenStore":
    """The store in a folder or at a URL (`s3://bucket/path`), for reading. Raises `UsageError` where there is none."""
    store = open_store(str(url))
    if not store.recognise():
        raise UsageError(f"a store at {store.url}", "none", "Name the folder or URL of `--store`.")
    return OpenStore(store)


class OpenStore:
    """What a store holds, by studies."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<store {self._store.url}, studies: {', '.join(self.studies()) or 'none'}>"

    def studies(self) -> list[str]:
        """Names of the studies that a run has finished here, sorted."""
        return self._store.folders(STUDIES)

    def study(self, name: str) -> "OpenStudy":
        """A study as its newest finished run left it. Raises `UsageError` where there is none of that name."""
        names = self.studies()
        if name not in names:
            raise UsageError(
                f"a finished study in {self._store.url}: {', '.join(names) or 'there is none'}",
                repr(name),
                "Name one of these, or run it first.",
            )
        return OpenStudy(name, self._store)


class OpenStudy:
    """The artifacts of a study. `study["encoder:tap"]` is a table of embeddings."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self._store = store

    def __repr__(self) -> str:
        return f"<study {self.name}, taps: {', '.join(self.taps())}>"

    def __getitem__(self, name: str) -> "TapTable":
        """The embeddings of `encoder:tap`. Raises `UsageError` or `InputError` where there is no such tap."""
        from stages.embeddings.query import TapTable

        encoder = name.partition(":")[0]
        if ":" not in name or EMBEDDINGS + encoder not in self._refs:
            raise UsageError(f"one of {', '.join(self.taps())}", repr(name), "Name one of these.")
        ref = self._refs[EMBEDDINGS + encoder]
        return TapTable(name, self.artifact(EMBEDDINGS + encoder), self.artifact(SHARDS), ref.generation, self)

    def tap(self, name: str) -> "TapTable":
        """The same as `study[name]`."""
        return self[name]

    def encoder(self, name: str) -> "StoredInput | None":
        """The artifact of an encoder, by the study's name for it; None where settings alone make it."""
        step = ENCODER + name
        return self.artifact(step) if step in self._refs else None

    def taps(self) -> list[str]:
        """Every `encoder:tap` that has embeddings of the images."""
        found = []
        for step in self._refs:
            if step.startswith(EMBEDDINGS):
                taps = self.artifact(step).summary["taps"]
                found += [f"{step.removeprefix(EMBEDDINGS)}:{tap}" for tap in taps]
        return found

    def steps(self) -> list[str]:
        """Names of the steps, in the order of the data."""
        return list(self._refs)

    def refs(self) -> "Mapping[str, Ref]":
        """Where the artifact of each step is."""
        return self._refs

    def path(self, step: str) -> str:
        """Where the artifact of a step is: a folder, or a URL. Raises `UsageError` where there is no such step."""
        return self._store.address(self._ref(step).folder)

    def artifact(self, step: str) -> "StoredInput":
        """The artifact of a step, to read its objects by name. Raises `UsageError` where there is no such step."""
        from pipeline.artifact import StoredInput

        return StoredInput(self._ref(step), self._store)

    def rows(self) -> "pa.Table":
        """Study, step and kind, then row, key, name, split, status and labels of every image, as in `TapTable.rows`."""
        return self._named(self[self.taps()[0]].rows, SHARDS, kind="image")

    def embeddings(self, tap: str) -> "pa.Table":
        """Study, step, encoder, tap, kind, row, key, and the vectors of `encoder:tap`, a list for each view.

        The encoder is called as in the study. The vectors of all rows are held in memory.
        """
        import pyarrow as pa

        table = self[tap]
        columns: dict[str, Any] = {name: table.rows.column(name) for name in ("row", "key")}
        for view in table.views:
            vectors = pa.array(table.numpy(view=view).reshape(-1))
            columns[view] = pa.FixedSizeListArray.from_arrays(vectors, table.width)
        encoder, _, own = tap.partition(":")
        return self._named(pa.table(columns), EMBEDDINGS + encoder, encoder=encoder, tap=own, kind="image")

    def results(self) -> "pa.Table":
        """The rows of `results.parquet` of all questions, each with its study and step."""
        return self._together("results.parquet")

    def samples(self) -> "pa.Table":
        """The rows of `samples.parquet` of all steps that paint, each with its study and step."""
        return self._together("samples.parquet")

    def _named(self, table: "pa.Table", step: str, **more: str) -> "pa.Table":
        """A table with its study, its step and `more` as first columns."""
        import numpy as np
        import pyarrow as pa

        codes = np.zeros(len(table), dtype=np.int8)
        known = {"study": self.name, "step": step} | more
        first = {name: pa.DictionaryArray.from_arrays(codes, pa.array([text])) for name, text in known.items()}
        return pa.table(first | {name: table.column(name) for name in table.column_names})

    def _together(self, name: str) -> "pa.Table":
        """The tables of that name of all steps under each other."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = []
        for step in self._refs:
            artifact = self.artifact(step)
            if name in artifact.names():
                tables.append(self._named(pq.read_table(io.BytesIO(artifact.read(name))), step))
        if not tables:
            return pa.table({"study": pa.array([], pa.string()), "step": pa.array([], pa.string())})
        return pa.concat_tables(tables, promote_options="default")

    def _ref(self, step: str) -> "Ref":
        if step not in self._refs:
            raise UsageError(f"one of the steps {', '.join(self._refs)}", repr(step), "Name one of these.")
        return self._refs[step]

    @cached_property
    def _refs(self) -> "Mapping[str, Ref]":
        """Where the artifact of each step is, by the newest pointer."""
        from pipeline.adopt import adopted
        from pipeline.studies import latest

        pointer = latest(self._store, self.name)
        assert pointer is not None, f"{self.name} has a folder, which comes with its first pointer"
        return pointer.steps | adopted(self._store, self.name)
