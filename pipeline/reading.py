"""A store opened for reading: which studies it holds, and the tables of embeddings of each.

    store = open("repscope-store")                  # a folder or a URL; nothing is written
    table = store.study("scenes")["simclr:projector"]
    store.study("scenes.yaml")                      # what the keys of the steps in this file say

By its name a study is read as its newest finished run left it, also while another is at work. By its file it is read as
the file says, and where that is not what the newest run made, a notice says so.
"""

import os
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import UsageError
from pipeline.store import Store, open_store
from stages.errors import InputError
from stages.parquet import table_from

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.artifact import StoredInput
    from pipeline.manifest import Ref
    from pipeline.studies import Pointer
    from pipeline.study import Study
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

    def study(self, study: "str | Path | Study") -> "OpenStudy":
        """A study by its name: as its newest finished run left it. By its file, or loaded: as that says.

        Warns where a file does not say what the newest run made. Raises `UsageError` where no run of that study was
        finished.
        """
        opened = open_study(study, self._store)
        if opened.notice:
            warnings.warn(opened.notice, stacklevel=2)
        return opened


def open_study(study: "str | Path | Study", store: Store) -> "OpenStudy":
    """A study for reading; see `OpenStore.study`. Its `notice` says what that warns of."""
    if isinstance(study, str) and not _is_file(study):
        name, asked = study, None
    else:
        from pipeline.study import load

        asked = load(str(study)) if isinstance(study, str | Path) else study
        name = asked.study
    names = store.folders(STUDIES)
    if name not in names:
        raise UsageError(
            f"a finished study in {store.url}: {', '.join(names) or 'there is none'}",
            repr(name),
            "Name one of these, or run it first.",
        )
    return OpenStudy(name, store, asked)


def _is_file(study: str) -> bool:
    """Whether a person means a file and not a name."""
    return study.endswith((".yaml", ".yml")) or os.sep in study


class _Found(NamedTuple):
    """Where the artifacts of steps are, which steps have none, and a sentence where the newest run made others."""

    refs: "Mapping[str, Ref]"
    missing: tuple[str, ...]
    notice: str


class OpenStudy:
    """The artifacts of a study. `study["encoder:tap"]` is a table of embeddings.

    `asked` is the study whose keys count; None: the newest pointer counts.
    """

    def __init__(self, name: str, store: Store, asked: "Study | None" = None) -> None:
        self.name = name
        self._store = store
        self._asked = asked

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

    @property
    def notice(self) -> str:
        """What differs between the study's file and the newest finished run of that name, as a sentence; else empty."""
        return self._found.notice if self._asked is not None else ""

    def taps(self) -> list[str]:
        """Every `encoder:tap` that has embeddings of the images."""
        found = []
        for step in self._refs:
            if step.startswith(EMBEDDINGS):
                taps = self.artifact(step).summary["taps"]
                found += [f"{step.removeprefix(EMBEDDINGS)}:{tap}" for tap in taps]
        return found

    def steps(self) -> list[str]:
        """Names of the steps that are made, in the order of the data."""
        return list(self._refs)

    def missing(self) -> tuple[str, ...]:
        """Names of the steps that the study's file says and that are not made."""
        return self._found.missing

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

        tables = []
        for step in self._refs:
            artifact = self.artifact(step)
            if name in artifact.names():
                tables.append(self._named(table_from(artifact.read(name)), step))
        if not tables:
            return pa.table({"study": pa.array([], pa.string()), "step": pa.array([], pa.string())})
        return pa.concat_tables(tables, promote_options="default")

    def _ref(self, step: str) -> "Ref":
        if step in self._found.missing:
            raise UsageError(
                f"{step} of {self.name} with the settings of its file",
                "none in the store",
                f"Run the study first. By its name, {self.name}, the newest finished run is read.",
            )
        if step not in self._refs:
            raise UsageError(f"one of the steps {', '.join(self._refs)}", repr(step), "Name one of these.")
        return self._refs[step]

    @property
    def _refs(self) -> "Mapping[str, Ref]":
        return {**self._found.refs, **self._adopted}

    @cached_property
    def _adopted(self) -> "Mapping[str, Ref]":
        from pipeline.adopt import adopted

        return adopted(self._store, self.name)

    @cached_property
    def _found(self) -> _Found:
        from pipeline.studies import latest

        newest = latest(self._store, self.name)
        if newest is None:
            raise UsageError(f"a finished run of {self.name} in {self._store.url}", "none", "Run it first.")
        return _Found(newest.steps, (), "") if self._asked is None else _by_keys(self._asked, newest, self._store)


def _by_keys(study: "Study", newest: "Pointer", store: Store) -> _Found:
    """The artifacts that the keys of a study's steps name: of the newest run where it has them, else of the store."""
    from pipeline.fingerprint import Fingerprints
    from pipeline.graph import graph_of
    from pipeline.manifest import surveys
    from pipeline.plan import files_of_code, keys_of
    from stages.external import code
    from stages.external.files import sha256_of

    graph = graph_of(study)
    fingerprints = Fingerprints(refresh=False)
    try:
        keys = {name: key.digest for name, key in keys_of(graph, fingerprints, store).items()}
        code.named({path: sha256_of(code.here(path)) for path in files_of_code(graph)})
    except InputError as error:
        notice = f"The keys of {study.study} as its file says cannot be known here ({error}) Its newest run is read."
        return _Found(newest.steps, (), notice)
    fingerprints.save()
    refs = {name: ref for name, ref in newest.steps.items() if keys.get(name) == ref.key}
    others = [step for step in graph if step.name not in refs]
    found = surveys(store, [(step.stage.name, keys[step.name]) for step in others])
    for step in others:
        entry = found[keys[step.name]]
        if entry.standing == "committed":
            refs[step.name] = entry.ref(store)
    missing = tuple(step.name for step in graph if step.name not in refs)
    notice = ""
    if others or len(newest.steps) > len(graph):
        apart = [step.name for step in others] or sorted(newest.steps.keys() - keys.keys())
        more = f" and {len(apart) - 3} more" if len(apart) > 3 else ""
        notice = (
            f"This is {study.study} as its file says, which is not its newest finished run (run {newest.run}): "
            f"{', '.join(apart[:3])}{more} differ. By its name, {study.study}, that run is read."
        )
    return _Found({step.name: refs[step.name] for step in graph if step.name in refs}, missing, notice)
