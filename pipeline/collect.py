"""What of a store may be deleted: nothing that the newest run of any study, or a run that is under way, reaches.

Kinds: `artifacts` (generations that nothing reaches, and what closed ones still hold), `checkpoints` of trainings that
are finished, `leases` that are over, and `probes`. An artifact is closed first and deleted a grace period later, so
that whoever reads it has time to finish. Ages are by the server's clock.

Reached are the newest pointer of every study, the vectors that were adopted for it, and the plans of all runs that hold
a lease or have written anything within the grace period.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pipeline.adopt import adopted
from pipeline.backends import Entry
from pipeline.events import read_plan
from pipeline.key import SHORT
from pipeline.lease import holder_of, server_time
from pipeline.manifest import close_generation, generation_in
from pipeline.store import Store
from pipeline.studies import latest

Kind: TypeAlias = Literal["artifacts", "checkpoints", "leases", "probes"]
KINDS: tuple[Kind, ...] = get_args(Kind)

AT_ONCE = 16
"""How many objects of a remote store are deleted together."""

KEPT = "tombstone.json"
"""What stays of a generation: its number is never taken again, and nothing that is late can commit it."""

Artifact: TypeAlias = tuple[str, str]
"""Stage and short key."""


@dataclass(frozen=True)
class Garbage:
    """Objects that may go together: `names` in the order in which they are deleted, and their bytes.

    `waits`: they are only closed now, and deleted once the grace period is over.
    """

    kind: Kind
    folder: str
    reason: str
    names: tuple[str, ...]
    size_bytes: int
    waits: bool = False


@dataclass(frozen=True)
class _Generation:
    stage: str
    key: str
    number: int
    entries: Mapping[str, Entry]

    @property
    def folder(self) -> str:
        return f"artifacts/{self.stage}/{self.key}/g{self.number:04d}"

    @property
    def artifact(self) -> Artifact:
        return self.stage, self.key

    @property
    def newest(self) -> float:
        return max(entry.modified for entry in self.entries.values())


def collectable(store: Store, kinds: Collection[Kind], grace_seconds: float) -> list[Garbage]:
    """What of these kinds may go, by folder. Raises `StoreError` where a pointer or a plan cannot be read."""
    now = server_time(store)
    leases = _by_folder(store.entries("leases"))
    with ThreadPoolExecutor(AT_ONCE if store.far else 1, "gc") as threads:
        holders = list(threads.map(lambda entries: holder_of(store, entries, now), leases.values()))
    held = {folder: holder for folder, holder in zip(leases, holders, strict=True) if holder is not None}
    roots = _roots(store, {holder.run for holder in held.values()}, now - grace_seconds)
    found: list[Garbage] = []
    if "artifacts" in kinds or "checkpoints" in kinds:
        for generation in _generations(store):
            held_here = f"leases/{generation.stage}/{generation.key}" in held
            reached = held_here or generation.number >= roots.get(generation.artifact, generation.number + 1)
            whole = None if reached else _unreached(generation, now, grace_seconds)
            if whole is not None and "artifacts" in kinds:
                found.append(whole)
            elif "checkpoints" in kinds and not held_here:
                found += _finished_checkpoints(generation, now - grace_seconds)
    if "leases" in kinds:
        found += _old_leases(leases, held, now - grace_seconds)
    if "probes" in kinds:
        old = [entry for entry in store.entries("probes") if entry.modified <= now - grace_seconds]
        found += [_garbage("probes", "probes", "left by a check of the store", old)] if old else []
    return found


def collect(store: Store, garbage: Sequence[Garbage], run: str = "gc") -> None:
    """Closes what is to wait, and deletes the rest. Whatever stops it, the same again goes on."""
    for entry in garbage:
        if entry.kind == "artifacts":
            _, stage, key, label = entry.folder.split("/")
            close_generation(store, stage, key, int(label[1:]), entry.reason, run)
        if not entry.waits:
            # The manifest is gone before anything that it lists.
            first, *others = entry.names
            store.delete(first)
            with ThreadPoolExecutor(AT_ONCE if store.far else 1, "gc") as threads:
                list(threads.map(store.delete, others))


def _roots(store: Store, holding: Set[str], since: float) -> dict[Artifact, int]:
    """Artifact -> its oldest generation that is reached; `holding` are the runs that hold a lease."""
    roots: dict[Artifact, int] = {}

    def reach(stage: str, key: str, number: int) -> None:
        artifact = stage, key[:SHORT]
        roots[artifact] = min(number, roots.get(artifact, number))

    for name in store.folders("studies"):
        pointer = latest(store, name)
        steps = {} if pointer is None else pointer.steps
        for ref in (*steps.values(), *adopted(store, name).values()):
            reach(ref.stage, ref.key, ref.generation)
    runs = holding | {entry.name.split("/")[1] for entry in store.entries("runs") if entry.modified > since}
    for run in sorted(runs):
        for step in _planned(store, run):
            reach(step["stage"], step["key"], 0)
    return roots


def _planned(store: Store, run: str) -> list[dict[str, str]]:
    """The steps of a run, by its plan. A run makes its plan before its first lease; what has none is no run of ours."""
    return [{"stage": step["stage"], "key": step["key"]} for step in read_plan(store, run).get("steps", {}).values()]


def _generations(store: Store) -> list[_Generation]:
    inside: dict[tuple[str, str, int], dict[str, Entry]] = {}
    for entry in store.entries("artifacts"):
        _, stage, key, label, name = [*entry.name.split("/", 4), "", "", ""][:5]
        number = generation_in(label)
        if name and number is not None:
            inside.setdefault((stage, key, number), {})[name] = entry
    return [_Generation(*at, entries) for at, entries in sorted(inside.items())]


def _unreached(generation: _Generation, now: float, grace_seconds: float) -> Garbage | None:
    """What of a generation that nothing reaches may go, if anything."""
    left = [entry for name, entry in generation.entries.items() if name != KEPT]
    closed = generation.entries.get(KEPT)
    since = generation.newest if closed is None else closed.modified
    if not left or now - since < grace_seconds:
        return None
    left.sort(key=lambda entry: (not entry.name.endswith("/manifest.json"), entry.name.endswith("/artifact.json")))
    reason = "no newest run of a study reaches it" if closed is None else "it is closed"
    return _garbage("artifacts", generation.folder, reason, left, waits=closed is None and grace_seconds > 0)


def _finished_checkpoints(generation: _Generation, since: float) -> list[Garbage]:
    """Checkpoints of a training whose artifact is committed, and files that its attempts have not published."""
    manifest = generation.entries.get("manifest.json")
    if manifest is None or manifest.modified > since:
        return []
    left = [
        entry
        for name, entry in sorted(generation.entries.items(), reverse=True)
        if name.startswith("train/") and name != "train/decision.json"
    ]
    folder = f"{generation.folder}/train"
    return [_garbage("checkpoints", folder, "its training is finished", left)] if left else []


def _old_leases(leases: Mapping[str, Sequence[Entry]], held: Collection[str], since: float) -> list[Garbage]:
    found = []
    for folder, entries in leases.items():
        if folder not in held and max(entry.modified for entry in entries) <= since:
            found.append(_garbage("leases", folder, "it is over", sorted(entries, key=lambda entry: entry.name)))
    return found


def _garbage(kind: Kind, folder: str, reason: str, entries: Sequence[Entry], waits: bool = False) -> Garbage:
    names = tuple(entry.name for entry in entries)
    return Garbage(kind, folder, reason, names, sum(entry.size for entry in entries), waits)


def _by_folder(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.name.rpartition("/")[0], []).append(entry)
    return found
