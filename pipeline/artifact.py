"""What a stage touches of the store: `StoredInput`, `StoredOutput`, `StoredCheckpoints` (see `stages.contract`)."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import LargeError, MissingError, PipelineError, StepFailedError, StoreError
from pipeline.manifest import Decision, Manifest, Object, Owner, Receipt, Ref, read_record, write_record
from pipeline.store import Store, open_store
from stages.contract import FOLDERS, RECORDS, RESERVED, is_reserved
from stages.errors import ConflictError, FormatError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

MANIFESTS = 16
"""Manifests that a process keeps: every part of a step reads those of the same inputs."""

DELETE = "Delete it alone from the store, then run again: only the part that wrote it is made again."
"""What is to be done with an object whose bytes have changed."""

FOLLOW_SECONDS: Sequence[float] = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.0)
"""How long an attempt waits, from try to try, for the next object of the attempt that owns its part."""

KEPT = 2
"""Checkpoints that an attempt keeps of its own."""


class StoredInput:
    """A committed artifact, read only. Implements `stages.contract.Input`."""

    def __init__(self, ref: Ref, store: Store | None = None) -> None:
        self._ref = ref
        self._store = store or open_store(ref.store)

    def __repr__(self) -> str:
        return f"StoredInput({self._ref.folder!r})"

    @property
    def key(self) -> str:
        return self._ref.key

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    @property
    def far(self) -> bool:
        return self._store.far

    @property
    def manifest(self) -> Manifest:
        """The table of contents. Raises `StepFailedError` where it is not the one that the run saw."""
        return _manifest(self._store, self._ref)

    def names(self) -> Sequence[str]:
        return sorted(self.manifest.objects)

    def size(self, name: str) -> int:
        return self._object(name).size

    def read(self, name: str) -> bytes:
        """The whole object, compared with the manifest. Raises `FormatError` where its bytes have changed."""
        expected, path = self._object(name), f"{self._ref.folder}/{name}"
        try:
            return _read_intact(self._store, path, expected)
        except MissingError as error:
            raise _gone(path) from error

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Part of an object. Its bytes are not compared with the manifest: the format that is read has checksums."""
        size = self._object(name).size
        if not 0 <= start <= start + length <= size:
            raise FormatError(
                f"a range within the {size} bytes of {self._ref.folder}/{name}",
                f"{start} to {start + length}",
                "The index does not fit the object: make the artifact anew with --force.",
            )
        path = f"{self._ref.folder}/{name}"
        try:
            return self._store.read_range(path, start, length)
        except MissingError as error:
            raise _gone(path) from error

    def zarr(self, folder: str) -> "ZarrStore":
        from pipeline.zarr_input import InputStore

        return InputStore(self, folder.rstrip("/"))

    def stored(self) -> Iterator[tuple[str, bytes]]:
        """Every object and the records that a reader needs, by name in the store; objects as `read` gives them."""
        for name in ("artifact.json", "manifest.json"):
            yield f"{self._ref.folder}/{name}", self._store.read(f"{self._ref.folder}/{name}")
        for name in self.names():
            yield f"{self._ref.folder}/{name}", self.read(name)

    def address(self, name: str) -> str:
        """Where an object is, for a person and for other tools: a path for local stores, else a URL."""
        return self._store.address(f"{self._ref.folder}/{name}")

    def _object(self, name: str) -> Object:
        try:
            return self.manifest.objects[name]
        except KeyError:
            raise MissingError(
                f"object {name} in {self._ref.folder}",
                f"{len(self.manifest.objects)} objects of other names",
                "The stage that made it and the one that reads it disagree; see `repscope explain`.",
            ) from None


def _gone(path: str) -> MissingError:
    return MissingError(
        f"object {path}, which the manifest lists",
        "that it is gone: it was deleted, by `repscope gc` or by hand, before or while it was read",
        "Read the study again as it is now. Where that says the same, run it: what is lost is made again.",
    )


@lru_cache(maxsize=MANIFESTS)
def _manifest(store: Store, ref: Ref) -> Manifest:
    manifest = read_record(store, f"{ref.folder}/manifest.json", Manifest)
    if manifest.digest != ref.digest:
        raise StepFailedError(
            f"the manifest {ref.digest[:16]} in {ref.folder}",
            f"manifest {manifest.digest[:16]}",
            "The store was changed during the run: run the same command again.",
        )
    return manifest


def _read_intact(store: Store, path: str, expected: Object) -> bytes:
    """The bytes of an object. Raises `MissingError`, and `FormatError` where they are not those that it should have."""
    try:
        return _intact(expected, path, store.read(path, expected.size))
    except LargeError as error:
        raise FormatError(f"{expected.size} bytes in {path}", error.found, f"It is damaged. {DELETE}") from error


def _intact(expected: Object, path: str, data: bytes, remedy: str = DELETE) -> bytes:
    """The bytes of an object. Raises `FormatError` where they are not those of its table of contents."""
    found = Object.of(data)
    if found != expected:
        raise FormatError(
            f"{expected.size} bytes with sha256 {expected.sha256[:16]} in {path}",
            f"{found.size} bytes with sha256 {found.sha256[:16]}",
            f"It is damaged. {remedy}",
        )
    return data


class TornPartError(PipelineError):
    """Another attempt at this part, with other bytes, has put some of its objects: those of two would be mixed."""


class StoredOutput:
    """Where a part puts whole objects. Implements `stages.contract.Output`.

    Objects of a stage that is not bitwise may differ between two attempts at a part, and must be of one of them. Both
    put them in the same order. So where the first that differs is there already, the other attempt owns the part: from
    there on this one adopts what the other puts, and puts nothing itself. Where that does not come, `put` raises
    `TornPartError`.

    `objects` are those that stand in the store after `put`, `adopted` the names that were taken already. `parts` is
    what `merge` may read besides: the objects that the receipts list.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        bitwise: bool,
        opened_by: Owner,
        parts: Mapping[str, Object] | None = None,
        accept_drift: bool = False,
    ) -> None:
        self._store = store
        self._folder = folder
        self._bitwise = bitwise
        self._opened_by = opened_by
        self._accept_drift = accept_drift
        self._parts = dict(parts or {})
        self._follows = False
        self.objects: dict[str, Object] = {}
        self.adopted: list[str] = []

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        _require_free(name)
        ours = data.read_bytes() if isinstance(data, Path) else bytes(data)
        path = f"{self._folder}/{name}"
        stored, created = (self._followed(path), False) if self._follows else self._store.create_or_read(path, ours)
        found = Object.of(stored)
        if not created:
            self._adopt(name, ours, stored, check)
            self.adopted.append(name)
            self._follows = self._follows or stored != ours
        self.objects[name] = found
        return stored

    def read(self, name: str) -> bytes:
        expected = self.objects.get(name) or self._parts.get(name)
        if expected is None:
            raise MissingError(
                f"object {name} to be put before it is read",
                f"{len(self.objects) + len(self._parts)} objects of other names in {self._folder}",
                "This is a mistake in the stage: a part reads what it has put itself, `merge` what the parts have put.",
            )
        return _read_intact(self._store, f"{self._folder}/{name}", expected)

    def _followed(self, path: str) -> bytes:
        """An object that another attempt puts, or has put. Raises `TornPartError` where it does not come."""
        for pause in FOLLOW_SECONDS:
            try:
                return self._store.read(path)
            except MissingError:
                time.sleep(pause)
        raise TornPartError(
            f"object {path} of the attempt that has put the part's other objects",
            "none: that attempt has ended in between, and this one has computed other bytes",
            "Run the same command again: this part is made again in a generation of its own.",
        )

    def _adopt(self, name: str, ours: bytes, stored: bytes, check: Callable[[bytes], None] | None) -> None:
        if self._bitwise:
            mine, theirs = hashlib.sha256(ours).hexdigest(), hashlib.sha256(stored).hexdigest()
            if mine != theirs and self._accept_drift:
                raise TornPartError(
                    f"object {self._folder}/{name} as this code writes it",
                    "other bytes, by an attempt of other code that has not finished the part",
                    "Run the same command again: this part is made again in a generation of its own.",
                )
            if mine != theirs:
                raise ConflictError(
                    f"equal bytes of {self._folder}/{name} from every host",
                    f"sha256 {mine[:16]} ({len(ours)} bytes) made by {Owner.here()} and sha256 {theirs[:16]} "
                    f"({len(stored)} bytes) in the store, in a generation opened by {self._opened_by}",
                    "The hosts compute differently (library versions?) or the object is damaged: compare them, then "
                    "run again with --force for this step.",
                )
        elif check is not None:
            check(stored)


class TrainingOutput:
    """Where rank 0 of one attempt of a training puts whole objects. Implements `stages.contract.Output`.

    No two attempts give equal bytes, so their files must not mix. Each attempt puts its files into a folder of its own.
    `decide` then says by one create-only record whose files count, and those are published under their names.
    """

    def __init__(self, store: Store, folder: str, attempt: str) -> None:
        self._store = store
        self._folder = folder
        self._attempt = attempt
        self.objects: dict[str, Object] = {}

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        _require_free(name)
        ours = data.read_bytes() if isinstance(data, Path) else bytes(data)
        path = self._staged(self._attempt, name)
        stored, _ = self._store.create_or_read(path, ours)
        self.objects[name] = Object.of(ours)
        return _intact(self.objects[name], path, stored)

    def read(self, name: str) -> bytes:
        expected = self.objects.get(name)
        if expected is None:
            raise MissingError(
                f"object {name} to be put before it is read",
                f"{len(self.objects)} objects of other names",
                "This is a mistake in the stage: a training reads what it has put itself.",
            )
        return _read_intact(self._store, self._staged(self._attempt, name), expected)

    def decided(self) -> Decision | None:
        """The decision, where there is one: then another attempt has finished the training."""
        try:
            return read_record(self._store, f"{self._folder}/train/decision.json", Decision)
        except MissingError:
            return None

    def decide(self, receipt: Receipt) -> Decision:
        """Proposes the files of this attempt; returns the decision, which may be for another."""
        ours = Decision(attempt=self._attempt, receipt=receipt)
        decision, _ = write_record(self._store, f"{self._folder}/train/decision.json", ours)
        return decision

    def publish(self, decision: Decision) -> None:
        """Creates the files that were decided on under their names. Safe to do twice, and by two processes at once."""
        for name, expected in decision.receipt.objects.items():
            path = f"{self._folder}/{name}"
            try:
                data = _read_intact(self._store, self._staged(decision.attempt, name), expected)
            except MissingError:
                # Another process has published all of them.
                data = _read_intact(self._store, path, expected)
            stored, _ = self._store.create_or_read(path, data)
            _intact(expected, path, stored)

    def clean(self) -> None:
        """Deletes the files of all attempts, once the receipt says that those decided on are published."""
        for entry in self._store.entries(f"{self._folder}/train"):
            if entry.name[len(self._folder) :].split("/")[3:4] == ["files"]:
                self._store.delete(entry.name)

    def _staged(self, attempt: str, name: str) -> str:
        return f"{self._folder}/train/{attempt}/files/{name}"


def _require_free(name: str) -> None:
    """Raises `StoreError` for a name that is the pipeline's own."""
    if is_reserved(name):
        raise StoreError(
            f"a name of the stage's own, other than {', '.join((*RECORDS, *(f'{folder}/…' for folder in FOLDERS)))}",
            name,
            "This is a mistake in the stage: rename the object.",
        )


class StoredCheckpoint:
    """One complete checkpoint. Implements `stages.contract.Checkpoint`."""

    def __init__(self, store: Store, folder: str, state: Mapping[str, Any]) -> None:
        self._store = store
        self._folder = folder
        self._step = int(state["step"])
        # Older checkpoints have none.
        self._sha256: Mapping[str, str] = dict(state.get("sha256", {}))

    @property
    def name(self) -> str:
        return "/".join(self._folder.split("/")[-2:])

    @property
    def step(self) -> int:
        return self._step

    def read(self, name: str) -> bytes:
        """One of its files. Raises `FormatError` where its bytes have changed since it was saved."""
        path = f"{self._folder}/{name}"
        data = self._store.read(path)
        expected = self._sha256.get(name)
        if expected is None:
            return data
        remedy = f"Delete the folder {self._folder}, then run again: the training goes on from the checkpoint before."
        return _intact(Object(size=len(data), sha256=expected), path, data, remedy)


class StoredCheckpoints:
    """Checkpoints of one gang step over all attempts. Implements `stages.contract.Checkpoints`.

    A checkpoint is the folder `train/<attempt>/step-<step>/`; its `state.json`, with sizes and sha256, is written last,
    so what is incomplete is never resumed from. An attempt's name is its own, and it deletes only what is its own.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._train = f"{folder}/train"
        self.attempt = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"
        self._saved: list[tuple[int, list[str]]] = []

    def latest(self) -> StoredCheckpoint | None:
        """The highest complete step, or None."""
        found: dict[str, dict[str, int]] = {}
        for entry in self._store.entries(self._train):
            folder, _, name = entry.name.rpartition("/")
            attempt, _, step = folder[len(self._train) + 1 :].partition("/")
            if attempt and step.startswith("step-"):
                found.setdefault(folder, {})[name] = entry.size
        for folder in sorted(found, key=lambda folder: (folder.rpartition("/")[2], folder), reverse=True):
            if RESERVED in found[folder]:
                try:
                    state = self._store.read_json(f"{folder}/{RESERVED}")
                    complete = all(found[folder].get(name) == size for name, size in state["files"].items())
                    checkpoint = StoredCheckpoint(self._store, folder, state)
                except (ValueError, KeyError, TypeError, AttributeError):
                    # Damaged, or emptied by a power cut: what it would complete is not complete.
                    continue
                if complete:
                    return checkpoint
        return None

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Publishes a checkpoint and deletes this attempt's older ones but one. Raises `StoreError`."""
        if RESERVED in files:
            raise StoreError(
                f"files of a checkpoint of other names than {RESERVED}", RESERVED, "This is a mistake in the stage."
            )
        folder = f"{self._train}/{self.attempt}/step-{step:09d}"
        state = {
            "step": step,
            "files": {name: len(data) for name, data in files.items()},
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }
        for name, data in {**files, RESERVED: json.dumps(state).encode()}.items():
            stored, _ = self._store.create_or_read(f"{folder}/{name}", data)
            if stored != data:
                raise StoreError(
                    f"checkpoint {folder}/{name} to be this attempt's own",
                    "other bytes of that name",
                    "Save each step once in an attempt.",
                )
        self._saved.append((step, [f"{folder}/{name}" for name in (RESERVED, *files)]))
        while len(self._saved) > KEPT:
            for name in self._saved.pop(0)[1]:
                self._store.delete(name)
