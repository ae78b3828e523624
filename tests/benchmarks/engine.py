"""What the engine itself costs: checked reads, and the time per part of a step of many parts.

python -m tests.benchmarks.engine
"""

import statistics
import tempfile
import time
from collections.abc import Callable

from cluster.inline import Inline
from pipeline.artifact import StoredInput
from pipeline.manifest import Manifest, Object, Owner, Ref, folder_of, write_record
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store, open_store
from tests.faults.arithmetic import Numbers
from tests.faults.faulty import MemoryRoot

OBJECT_BYTES = 256 << 20
PARTS = (500, 1000, 2000)
OBJECTS = 10_000
TURNS = 5


def main() -> None:
    """Prints seconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        store.prepare()
        _reads(store)
        _manifests(store)
    for parts in PARTS:
        steps = [Step("numbers", Numbers(parts=parts, per_part=1))]
        root = MemoryRoot()
        store, _ = root.process()
        seconds = _seconds(lambda store=store, steps=steps: run(steps, store, Inline))  # type: ignore[misc]
        print(f"a step of {parts} parts in memory: {seconds:.2f} s, {1000 * seconds / parts:.2f} ms a part")
        manifest = next(name for name in root.objects("artifacts") if name.endswith("/manifest.json"))
        root.backend.delete(manifest)
        seconds = _seconds(lambda store=store, steps=steps: run(steps, store, Inline))  # type: ignore[misc]
        print(f"the same, resumed with a receipt for every part: {seconds:.2f} s")


def _reads(store: Store) -> None:
    """A large object from the page cache, checked and not."""
    data = bytes(OBJECT_BYTES)
    ref = _commit(store, "large", {"large.bin": Object.of(data)})
    store.create(f"{ref.folder}/large.bin", data)
    checked, plain = [], []
    for _ in range(TURNS):
        checked.append(_seconds(lambda: StoredInput(ref, store).read("large.bin")))
        plain.append(_seconds(lambda: store.read(f"{ref.folder}/large.bin")))
    a, b = statistics.median(checked), statistics.median(plain)
    print(f"{OBJECT_BYTES >> 20} MiB: read {b:.3f} s, read and compared with its sha256 {a:.3f} s")


def _manifests(store: Store) -> None:
    """What an input of many objects costs each part of one worker after the first."""
    ref = _commit(store, "many", {f"{i}.bin": Object(size=1, sha256="ab" * 32) for i in range(OBJECTS)})
    StoredInput(ref, store).names()
    seconds = min(_seconds(lambda: StoredInput(ref, store).names()) for _ in range(TURNS))
    print(f"names of an input of {OBJECTS} objects, again in one process: {1000 * seconds:.1f} ms")


def _commit(store: Store, stage: str, objects: dict[str, Object]) -> Ref:
    manifest = Manifest(
        stage=stage,
        key="0" * 64,
        document={},
        code="",
        inputs={},
        parts=1,
        objects=objects,
        summary={},
        seconds=0.0,
        versions={},
        owner=Owner.here(),
        executor="inline",
        created=0.0,
    )
    write_record(store, f"{folder_of(stage, manifest.key, 0)}/manifest.json", manifest)
    return Ref(store=store.url, stage=stage, key=manifest.key, generation=0, digest=manifest.digest)


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
