"""Whether artifacts are what their manifests say: every object there and of its size; with `deep`, of its sha256.

Each fault is named with the remedy that loses least. Objects are read in blocks, several at once, so memory does not
grow with their size.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import MissingError, StoreError
from pipeline.key import digest_of
from pipeline.manifest import Manifest, Object, Ref, read_record
from pipeline.store import Store
from stages.contract import RESERVED

BLOCK_BYTES = 4 << 20
"""Bytes of an object in memory at a time."""

AT_ONCE = 8
"""How many objects are read at once."""

RUN = "Run the study again: only the part that wrote it is made again, of a training what its last checkpoint lacks."
DELETE = "Delete that object alone, then run the study again: only the part that wrote it is made again."
MERGE = "Delete that object alone, then run the study again: all parts are complete, so only their merge is done again."
CHECKPOINT = "Delete that folder: the training is finished and needs it no more."


@dataclass(frozen=True)
class Fault:
    """What is wrong with one object: where it is (a path or URL), what was found, and the remedy that loses least."""

    step: str
    where: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.step}: {self.where} {self.problem}. {self.remedy}"


@dataclass(frozen=True)
class Verified:
    """An artifact that was verified: how many objects and bytes its manifest lists, and its faults."""

    step: str
    folder: str
    objects: int
    size_bytes: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A folder of a training's checkpoint inside a generation. `objects` are those that its state lists.

    `complete`: the state is there, and so is every object, of its size. `problem` says what is wrong with the state.
    """

    folder: str
    objects: Mapping[str, Object]
    complete: bool
    problem: str = ""


def verify(
    store: Store, refs: Mapping[str, Ref], deep: bool, on_verified: Callable[[Verified], None] = lambda verified: None
) -> list[Verified]:
    """Verifies the artifacts of steps, in their order; `on_verified` is called with each as it is done."""
    found = []
    with ThreadPoolExecutor(AT_ONCE, "verify") as threads:
        for step, ref in refs.items():
            found.append(_artifact(store, step, ref, deep, threads))
            on_verified(found[-1])
    return found


def _artifact(store: Store, step: str, ref: Ref, deep: bool, threads: ThreadPoolExecutor) -> Verified:
    try:
        manifest = read_record(store, f"{ref.folder}/manifest.json", Manifest)
        problem = _of_another(manifest, ref)
        remedy = MERGE
    except MissingError:
        problem, remedy = (
            "is missing",
            "Run the study again: all parts are complete, so only their merge is done again.",
        )
    except StoreError as error:
        problem, remedy = f"is {error.found}", MERGE
    if problem:
        fault = Fault(step, store.address(f"{ref.folder}/manifest.json"), problem, remedy)
        return Verified(step, store.address(ref.folder), 0, 0, (fault,))
    sizes = {entry.name[len(ref.folder) + 1 :]: entry.size for entry in store.entries(ref.folder)}
    faults = [
        Fault(step, store.address(f"{ref.folder}/{name}"), problem, RUN)
        for name, problem in _by_size(manifest.objects, sizes)
    ]
    if deep:
        of_size = {name: entry for name, entry in manifest.objects.items() if sizes.get(name) == entry.size}
        faults += [
            Fault(step, store.address(f"{ref.folder}/{name}"), problem, DELETE)
            for name, problem in _by_content(store, ref.folder, of_size, threads)
        ]
    if any(name.startswith("train/") for name in sizes):
        faults += _checkpoints(store, step, ref.folder, sizes, deep, threads)
    return Verified(
        step, store.address(ref.folder), len(manifest.objects), manifest.size_bytes, tuple(sorted(faults, key=str))
    )


def _of_another(manifest: Manifest, ref: Ref) -> str:
    """What contradicts a manifest that can be read; empty where nothing does."""
    if manifest.key != ref.key or digest_of(manifest.document) != manifest.key:
        return f"is of key {manifest.key[:16]} and not of {ref.key[:16]}, or describes another"
    if manifest.digest != ref.digest:
        return f"has digest {manifest.digest[:16]} and not {ref.digest[:16]}: it was changed since it was written"
    return ""


def _by_size(objects: Mapping[str, Object], sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Objects that are missing or of another size, by name, and how."""
    for name, expected in objects.items():
        if name not in sizes:
            yield name, "is missing"
        elif sizes[name] != expected.size:
            yield name, f"has {sizes[name]} bytes, not {expected.size}"


def _by_content(
    store: Store, folder: str, objects: Mapping[str, Object], threads: ThreadPoolExecutor
) -> Iterator[tuple[str, str]]:
    """Objects whose bytes are not those of their sha256, by name, and how; several are read at once."""
    problems = threads.map(lambda entry: problem_of(store, f"{folder}/{entry[0]}", entry[1]), objects.items())
    for name, problem in zip(objects, problems, strict=True):
        if problem:
            yield name, problem


def _checkpoints(
    store: Store, step: str, folder: str, sizes: Mapping[str, int], deep: bool, threads: ThreadPoolExecutor
) -> list[Fault]:
    """What is wrong with the checkpoints of a finished training. One that was never completed is no fault."""
    faults = []
    for found in checkpoints(store, folder, sizes):
        problem = found.problem
        if found.objects and not found.complete:
            problem = "is a checkpoint that has lost some of its bytes"
        elif deep and not problem:
            wrong = [name for name, _ in _by_content(store, f"{folder}/{found.folder}", found.objects, threads)]
            problem = f"is a checkpoint in which bytes of {wrong[0]} have changed" if wrong else ""
        if problem:
            faults.append(Fault(step, store.address(f"{folder}/{found.folder}"), problem, CHECKPOINT))
    return faults


def checkpoints(store: Store, folder: str, sizes: Mapping[str, int] | None = None) -> list[Checkpoint]:
    """The checkpoints of a training in a generation, the highest step first. `sizes` is a listing of the generation."""
    if sizes is None:
        sizes = {entry.name[len(folder) + 1 :]: entry.size for entry in store.entries(f"{folder}/train")}
    inside: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        above, _, label = name.rpartition("/")
        if above.startswith("train/") and above.rpartition("/")[2].startswith("step-"):
            inside.setdefault(above, {})[label] = size
    found = []
    for above in sorted(inside, key=lambda above: (above.rpartition("/")[2], above), reverse=True):
        objects: dict[str, Object] = {}
        problem = ""
        if RESERVED in inside[above]:
            try:
                state = store.read_json(f"{folder}/{above}/{RESERVED}")
                # Those of older versions have no sha256.
                objects = {name: Object(size=state["files"][name], sha256=sha) for name, sha in state["sha256"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                problem = f"is a checkpoint whose {RESERVED} is damaged"
        whole = bool(objects) and all(inside[above].get(name) == entry.size for name, entry in objects.items())
        found.append(Checkpoint(above, objects, whole, problem))
    return found


def problem_of(store: Store, name: str, expected: Object) -> str:
    """What is wrong with the bytes of an object, read in blocks; empty where they are as expected."""
    digest = hashlib.sha256()
    try:
        if store.head(name).size != expected.size:
            return f"has {store.head(name).size} bytes, not {expected.size}"
        for start in range(0, expected.size, BLOCK_BYTES):
            digest.update(store.read_range(name, start, min(BLOCK_BYTES, expected.size - start)))
    except MissingError:
        return "is missing"
    return "" if digest.hexdigest() == expected.sha256 else "has other bytes than were written: some have changed"


def bytes_of(verified: Sequence[Verified]) -> int:
    """Bytes of all objects that the manifests list."""
    return sum(entry.size_bytes for entry in verified)
