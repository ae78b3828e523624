"""The model of a store under random histories: what is promised of it, whatever happens.

The model is small: bytes never change, what is committed is what its fields, its input and its code say, an artifact
that was once committed stays what it was, and what the newest run of a study has made is there until somebody harms it.
The store is in memory. Its server has a clock of its own, and decides which call of which process fails.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import pytest

from pipeline.backends import MAX_OBJECT_BYTES, Backend, Entry
from pipeline.errors import StoreError, UnansweredError
from pipeline.manifest import Decision, Manifest, Object, Receipt
from pipeline.run import RunResult
from pipeline.step import Step
from pipeline.store import Store
from tests.faults import edited
from tests.faults.faulty import Crash, DeadError, MemoryRoot
from tests.faults.test_races import Turnstile

STUDIES = ("one", "two")
FIELDS = ("first", "power", "seed", "steps")
READ_BY = {
    "counts": ("first",),
    "sums": ("first", "power"),
    "draws": ("first", "seed"),
    "learned": ("first", "power", "steps"),
}
"""Step -> the fields that make it what it is: its own and those of what it reads."""

MOST_CALLS = 20_000
"""Processes that make more calls to the store come to no end: they need some hundred."""
Harm = Literal["flip", "cut", "empty", "lose"]
Result = TypeVar("Result")
RECORDS = ("artifact.json", "manifest.json", "decision.json", "state.json")


@dataclass(frozen=True)
class Death:
    """What happens to a process at one of its calls to the store: number `at` of those with `among` in their names."""

    crash: Crash
    at: int
    among: str = ""


class Server(Backend):
    """The store as all processes of a history reach it, with a clock of its own that goes on with every call.

    A process is a thread by its name; `deaths` says which of them fails at which call. With a turnstile two processes
    take turns, call by call.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._modified: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._dead: set[str] = set()
        self._calls = 0
        self._lock = threading.RLock()
        self.now = time.time()
        self.seconds_a_call = 0.0
        self.deaths: dict[str, Death] = {}
        self.turnstile: Turnstile | None = None
        self.leases = True

    def fresh(
        self,
        deaths: Mapping[str, Death],
        seconds_a_call: float,
        turnstile: Turnstile | None = None,
        leases: bool = True,
    ) -> None:
        """New processes begin. Without `leases` none is written, so that they keep nobody out."""
        self.deaths, self.seconds_a_call, self.turnstile = dict(deaths), seconds_a_call, turnstile
        self.leases = leases
        self._counts, self._dead, self._calls = {}, set(), 0

    def age(self, name: str) -> float:
        """Seconds since an object was created; less than none where it never was."""
        return self.now - self._modified[name] if name in self._modified else -1.0

    def create(self, name: str, data: bytes) -> None:
        if name.startswith("leases/") and not self.leases:
            return
        self._call(f"create {name}", lambda: self._noted(name, lambda: self._inner.create(name, data)))

    def copy(self, source: str, target: str) -> None:
        self._call(f"copy {target}", lambda: self._noted(target, lambda: self._inner.copy(source, target)))

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        return self._call(f"read {name}", lambda: self._inner.read(name, most_bytes))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._call(f"read {name}", lambda: self._inner.read_range(name, start, length))

    def head(self, name: str) -> Entry:
        return self._call(f"head {name}", lambda: self._dated(self._inner.head(name)))

    def entries(self, folder: str) -> list[Entry]:
        return self._call(f"list {folder}", lambda: [self._dated(entry) for entry in self._inner.entries(folder)])

    def folders(self, folder: str) -> list[str]:
        return self._call(f"folders {folder}", lambda: self._inner.folders(folder))

    def delete(self, name: str) -> None:
        self._call(f"delete {name}", lambda: self._inner.delete(name))

    def _noted(self, name: str, action: Callable[[], None]) -> None:
        action()
        self._modified[name] = self.now

    def _dated(self, entry: Entry) -> Entry:
        return replace(entry, modified=self._modified[entry.name])

    def _call(self, what: str, action: Callable[[], Result]) -> Result:
        process = threading.current_thread().name
        if self.turnstile is not None:
            self.turnstile.pass_()
        with self._lock:
            if process in self._dead:
                raise DeadError
            self._calls += 1
            assert self._calls < MOST_CALLS, f"a process comes to no end: {what}"
            self.now += self.seconds_a_call
            death = self.deaths.get(process)
            if death is None or death.among not in what:
                return action()
            count = self._counts[process] = self._counts.get(process, -1) + 1
            if death.at != count:
                return action()
            if death.crash not in ("die before", "raise before", "lose the request"):
                action()
            if death.crash in ("die before", "die after"):
                self._dead.add(process)
                raise DeadError
        if death.crash in ("raise before", "raise after"):
            raise StoreError(f"to {what}", "500 Internal Server Error", "Run again.")
        raise UnansweredError(f"an answer to {what}", "a lost connection", "Run again.")


class Collecting(Store):
    """The store as garbage collection sees it, which deletes nothing that is younger than the grace period."""

    def __init__(self, server: Server, url: str, grace_seconds: float) -> None:
        super().__init__(server, url)
        self._server = server
        self._grace = grace_seconds

    def delete(self, name: str) -> None:
        """Deletes an object of a generation that was closed in time, or of a training that has ended, or an old one."""
        folder = "/".join(name.split("/")[:4])
        records = ["tombstone.json", "manifest.json"] if "/train/" in name else ["tombstone.json"]
        ages = [self._server.age(f"{folder}/{record}") for record in records]
        oldest = max(ages) if name.startswith("artifacts/") else self._server.age(name)
        if not name.startswith("probes/clock-"):
            assert oldest >= self._grace, f"{name} is deleted after {oldest} s of {self._grace}"
        super().delete(name)


class Model:
    """The studies as they are now, their store, and what was seen of it.

    `seen` are the first bytes of every object of an artifact, `harmed` the names that we have harmed. `gone` are the
    objects that somebody may have deleted, and has; `numbers` the last first number of a study. `keys` has what each
    key stands for, a step and its fields, and the key of each of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr("cluster.retry.PAUSE_SECONDS", 0.0)
        self.patches.setattr("pipeline.store.PAUSE_SECONDS", 0.0)
        self.patches.setattr("pipeline.lease.POLL_SECONDS", 0.0)
        self.patches.setattr("pipeline.salvage.AT_ONCE", 1)
        self.patches.setattr("pipeline.artifact.FOLLOW_SECONDS", (0.0,) * 50)
        self.patches.setattr("pipeline.drift.Code.digest", lambda code, stage: edited.code_of(stage))
        self.patches.setattr("pipeline.worker._code_digest", edited.code_of)
        edited.EDITIONS.clear()
        self.root = MemoryRoot()
        self.server = Server(self.root.backend)
        self.fields = {study: dict(zip(FIELDS, (1, 2, 0, 2), strict=True)) for study in STUDIES}
        self.seen: dict[str, bytes] = {}
        self.harmed: dict[str, Harm] = {}
        self.gone: set[str] = set()
        self.numbers = 2
        self.keys: dict[str | tuple[Any, ...], str | tuple[Any, ...]] = {}

    def teardown(self) -> None:
        self.patches.undo()

    def graph(self, study: str) -> list[Step]:
        """The steps of a study as it is now."""
        return edited.graph(**self.fields[study])

    def process(self) -> Store:
        """The store as a new process sees it."""
        return self.root.seen_through(self.server)

    def start_anew(self, study: str) -> None:
        """Edits a study so that nothing of it is made."""
        self.numbers += 1
        self.fields[study]["first"] = self.numbers

    def harm_one_of(self, objects: Collection[str], pick: int, harm: Harm) -> None:
        """Harms one of these objects, if there are any."""
        whole = sorted(set(objects) - self.harmed.keys())
        if not whole:
            return
        name = whole[pick % len(whole)]
        data = self.root.backend.read(name)
        self.root.backend.delete(name)
        if harm != "lose":
            changed = {"flip": bytes([data[0] ^ 1]) + data[1:], "cut": data[: len(data) // 2], "empty": b""}[harm]
            self.root.backend.create(name, changed)
        self.harmed[name] = harm

    def mend(self, error: Exception) -> None:
        """Does what the message says."""
        message = str(error)
        named = [name for name in self.harmed if name in message or name.rpartition("/")[0] in message]
        exact = [name for name in named if name in message] or named
        assert exact, f"a run ends with {message!r}, harmed are {self.harmed}"
        for name in exact:
            above = name.rpartition("/")[0]
            doomed = list(self.root.objects(above)) if f"Delete the folder {above}" in message else [name]
            for each in doomed:
                self.root.backend.delete(each)
                self.harmed[each] = "lose"
            assert "elete" in message, message

    def checkpoint(self, folder: str, there: Collection[str]) -> int:
        """The highest step of which there is a checkpoint in a folder; 0 where there is none, or some are harmed."""
        if any(name.startswith(folder) for name in self.harmed):
            return 0
        states = [name for name in there if name.startswith(folder) and name.endswith("/state.json")]
        whole = [name for name in states if name.replace("state.json", "value.json") in there]
        return max((int(name.split("/")[-2].removeprefix("step-")) for name in whole), default=0)

    def pointed(self) -> dict[str, dict[str, str]]:
        """Study -> step -> folder, by the newest pointers."""
        found = {}
        for name, data in sorted(self.root.objects("studies").items()):
            found[name.split("/")[1]] = {step: made["folder"] for step, made in json.loads(data)["steps"].items()}
        return found

    def folder(self, url: str) -> str:
        """The folder of an artifact in the store."""
        return url.removeprefix(f"{self.root.url}/")

    def manifest(self, folder: str) -> Manifest:
        """The manifest of a folder as it was when it was first there."""
        return Manifest.model_validate_json(self.seen[f"{folder}/manifest.json"])

    def listed(self) -> set[str]:
        """All objects that are there and that a receipt, a manifest or a decision lists."""
        there = self.root.objects("artifacts")
        found = set()
        for name, data in there.items():
            folder = "/".join(name.split("/")[:4])
            try:
                if "/parts/" in name:
                    found |= {f"{folder}/{entry}" for entry in Receipt.model_validate_json(data).objects}
                elif name.endswith("/manifest.json"):
                    found |= {f"{folder}/{entry}" for entry in Manifest.model_validate_json(data).objects}
                elif name.endswith("/decision.json"):
                    found |= {f"{folder}/{entry}" for entry in Decision.model_validate_json(data).receipt.objects}
                elif name.endswith("/state.json"):
                    above = name.rpartition("/")[0]
                    found |= {f"{above}/{entry}" for entry in json.loads(data)["files"]}
            except ValueError:
                continue
        return found & there.keys()

    def committed(self, name: str) -> bool:
        """Whether the generation of an object has a manifest."""
        return f"{'/'.join(name.split('/')[:4])}/manifest.json" in self.root.objects("artifacts")

    def records(self) -> set[str]:
        """All records of artifacts but tombstones, without which a number would be taken again."""
        there = self.root.objects("artifacts")
        return {name for name in there if name.rpartition("/")[2] in RECORDS or "/parts/" in name}

    def check_result(self, study: str, result: RunResult, accept_drift: bool = False) -> None:
        """What a run reports is complete, is what its fields, its input and its code say, and stays what it was."""
        there = self.root.objects("artifacts")
        self.remember(there)
        steps = {step.name: step for step in self.graph(study)}
        for done in result.steps:
            folder = self.folder(done.url)
            manifest, stage = self.manifest(folder), steps[done.name].stage
            what = done.name, *(self.fields[study][field] for field in READ_BY[done.name])
            assert self.keys.setdefault(what, done.key) == done.key, f"{what} has two keys"
            assert self.keys.setdefault(done.key, what) == what, f"{what} has the key of {self.keys[done.key]}"
            objects = {name: self.seen[f"{folder}/{name}"] for name in manifest.objects}
            for name, expected in manifest.objects.items():
                full = f"{folder}/{name}"
                assert len(there.get(full, b"")) == expected.size, f"{full} is lost"
                if full not in self.harmed:
                    assert Object.of(there[full]) == expected, f"{full} is not what the manifest says"
            if any(f"{folder}/{name}" in self.harmed for name in manifest.objects):
                continue
            source: dict[str, bytes] = {}
            for name, of in steps[done.name].inputs.items():
                made_from = manifest.inputs[name]
                above = f"artifacts/{steps[of].stage.name}/{made_from.key[:16]}/g{made_from.generation:04d}"
                assert self.manifest(above).digest == made_from.digest
                assert made_from.digest == self.manifest(self.folder(result.url(of))).digest, f"{done.name} is stale"
                source = {entry: self.seen[f"{above}/{entry}"] for entry in self.manifest(above).objects}
            if any(f"{above}/{name}" in self.harmed for name in source):
                continue
            assert not edited.mistakes(stage, objects, source), (folder, edited.mistakes(stage, objects, source))
            by = [edition for edition in range(3) if edited.code_of(type(stage), edition) == manifest.code]
            assert not by or edited.editions(objects) == set(by), f"{folder} says it was made by another code"
            assert done.drift == (manifest.code != edited.code_of(type(stage)))
            assert accept_drift or done.outcome == "hit" or not done.drift, f"{folder} was begun by other code"

    def remember(self, there: Mapping[str, bytes]) -> None:
        """Compares all bytes with those that were first seen."""
        for name, data in there.items():
            first = self.seen.setdefault(name, data)
            assert first == data or name in self.harmed, f"{name} was changed"

    def check_bytes(self, collected: bool = False) -> None:
        """No byte has changed, nothing is gone that none may take, and what is pointed at is there."""
        there = self.root.objects("artifacts")
        self.remember(there)
        for name in self.seen.keys() - there.keys() - self.harmed.keys():
            assert collected or "/train/" in name or name in self.gone, f"{name} is gone"
            self.gone.add(name)
        for study, folders in self.pointed().items():
            for folder in folders.values():
                lost = {f"{folder}/{name}" for name in self.manifest(folder).objects} - there.keys()
                assert lost <= self.harmed.keys(), f"{lost} of {study} was collected"
