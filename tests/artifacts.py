"""Artifacts without a store, for tests of `stages`: in memory or in a local folder, create-only with adoption.

`run_stage` does in one process what the pipeline does with a step.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stages.contract import RESERVED, Gang, Input, Inputs, Part, Stage, Summary, is_reserved
from stages.errors import ConflictError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class MemoryArtifact:
    """Input and Output over a dict of object name -> bytes."""

    far = False

    def __init__(
        self, objects: Mapping[str, bytes] | None = None, *, key: str = "0" * 64, bitwise: bool = True
    ) -> None:
        self.objects: dict[str, bytes] = dict(objects or {})
        self.bitwise = bitwise
        self.reads: list[str] = []
        """Names in the order in which they were read."""
        self._key = key
        self._summary: Summary = {}

    @property
    def key(self) -> str:
        return self._key

    @property
    def summary(self) -> Summary:
        return self._summary

    @summary.setter
    def summary(self, value: Summary) -> None:
        self._summary = json.loads(json.dumps(value, allow_nan=False))

    def names(self) -> Sequence[str]:
        return sorted(self.objects)

    def size(self, name: str) -> int:
        return len(self.objects[name])

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        return self.objects[name]

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self.reads.append(name)
        return self.objects[name][start : start + length]

    def zarr(self, folder: str) -> "ZarrStore":
        from zarr.core.buffer import Buffer, cpu
        from zarr.storage import MemoryStore

        prefix = folder.rstrip("/") + "/"
        inside: dict[str, Buffer] = {
            name.removeprefix(prefix): cpu.Buffer.from_bytes(data)
            for name, data in self.objects.items()
            if name.startswith(prefix)
        }
        return MemoryStore(inside, read_only=True)

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        assert not is_reserved(name), f"{name} is a name of the pipeline's own"
        given = data if isinstance(data, bytes) else data.read_bytes()
        if name in self.objects:
            _adopt(name, given, self.objects[name], self.bitwise, check)
        return self.objects.setdefault(name, given)


class FolderArtifact:
    """Input and Output over a local folder."""

    far = False

    def __init__(self, folder: Path, *, key: str = "0" * 64, bitwise: bool = True) -> None:
        self.folder = folder
        self.bitwise = bitwise
        self.summary: Summary = {}
        self._key = key
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def key(self) -> str:
        return self._key

    def names(self) -> Sequence[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def read_range(self, name: str, start: int, length: int) -> bytes:
        # Without a buffer, as a store reads a folder.
        with (self.folder / name).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(length)

    def zarr(self, folder: str) -> "ZarrStore":
        from zarr.storage import LocalStore

        return LocalStore(self.folder / folder, read_only=True)

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        assert not is_reserved(name), f"{name} is a name of the pipeline's own"
        given = data if isinstance(data, bytes) else data.read_bytes()
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(given)
        except FileExistsError:
            _adopt(name, given, path.read_bytes(), self.bitwise, check)
        return path.read_bytes()


class PartOutput:
    """The output of one part: all goes into the artifact, and only what this part has put can be read back."""

    def __init__(self, artifact: MemoryArtifact) -> None:
        self._artifact = artifact
        self._own: set[str] = set()

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        self._own.add(name)
        return self._artifact.put(name, data, check)

    def read(self, name: str) -> bytes:
        assert name in self._own, f"a part reads only what it has put, which {name} is not"
        return self._artifact.read(name)


@dataclass
class MemoryCheckpoint:
    """One checkpoint: its name, its step and its files."""

    name: str
    step: int
    files: dict[str, bytes]

    def read(self, name: str) -> bytes:
        return self.files[name]


class MemoryCheckpoints:
    """Training checkpoints of an attempt in memory; the two newest are kept."""

    def __init__(self, attempt: str = "first") -> None:
        self.attempt = attempt
        self.kept: list[MemoryCheckpoint] = []

    def latest(self) -> MemoryCheckpoint | None:
        return self.kept[-1] if self.kept else None

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        assert RESERVED not in files, f"{RESERVED} is written by whoever keeps the checkpoints"
        saved = MemoryCheckpoint(f"{self.attempt}/{step}", step, dict(files))
        self.kept = sorted([*self.kept, saved], key=lambda c: c.step)[-2:]


@dataclass
class InlineContext:
    """The context of a gang of one."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)
    reports: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)

    def report(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        self.reports.append((done, total, dict(metrics)))


def run_stage(
    stage: Stage,
    inputs: Inputs | None = None,
    *,
    order: Callable[[list[Part]], list[Part]] = list,
    context: InlineContext | None = None,
) -> MemoryArtifact:
    """Runs a stage in this process and returns its artifact.

    As on a cluster, the stage that works is rebuilt from JSON, and parts and summaries travel as JSON. `order` says in
    which order parts are worked off; `merge` sees them by index all the same. A gang runs as one rank in `context`.
    """
    given: dict[str, Input] = dict(inputs or {})
    rebuilt = type(stage).model_validate_json(stage.model_dump_json())
    key = hashlib.sha256(f"{stage.name}{stage.model_dump_json()}{[i.key for i in given.values()]}".encode()).hexdigest()
    out = MemoryArtifact(key=key, bitwise=stage.bitwise)
    if isinstance(rebuilt, Gang):
        out.summary = rebuilt.train(context or InlineContext(), given, out)
        return out
    parts = stage.split(given)
    state = rebuilt.setup(given, "cpu")
    summaries: dict[int, Summary] = {}
    for part in order([Part.model_validate_json(part.model_dump_json()) for part in parts]):
        summaries[part.index] = json.loads(
            json.dumps(rebuilt.work(part, state, given, PartOutput(out)), allow_nan=False)
        )
    out.summary = rebuilt.merge([summaries[part.index] for part in parts], given, out)
    return out


def _adopt(name: str, given: bytes, stored: bytes, bitwise: bool, check: Callable[[bytes], None] | None) -> None:
    if not bitwise:
        if check is not None:
            check(stored)
    elif given != stored:
        raise ConflictError(
            f"equal bytes of {name}",
            f"{len(given)} bytes that differ from the {len(stored)} in the store",
            "Make the stage reproducible.",
        )
