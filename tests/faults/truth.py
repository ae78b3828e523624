"""What must hold of a store whatever has happened to those who wrote it."""

from collections.abc import Callable, Sequence

from cluster.executor import Executor
from cluster.inline import Inline
from pipeline.events import Event
from pipeline.manifest import Manifest, Object
from pipeline.plan import StepState, plan
from pipeline.run import RunResult, run
from pipeline.step import Step
from pipeline.store import Store
from tests.faults.faulty import MemoryRoot


def contents(root: MemoryRoot, state: StepState) -> dict[str, bytes]:
    """The objects of a finished step as its manifest lists them; checks that they are what it says."""
    folder = state.url.removeprefix(f"{root.url}/")
    found = root.objects(folder)
    manifest = Manifest.model_validate_json(found[f"{folder}/manifest.json"])
    named = {name: found[f"{folder}/{name}"] for name in manifest.objects}
    assert {name: Object.of(data) for name, data in named.items()} == manifest.objects
    return named


def finished(root: MemoryRoot, graph: Sequence[Step], store: Store) -> dict[str, dict[str, bytes]]:
    """Step -> contents, of all steps that count as finished."""
    return {state.name: contents(root, state) for state in plan(graph, store) if state.finished}


def undisturbed(
    graph: Sequence[Step], executor: Callable[[], Executor] = Inline
) -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """What a run without any fault makes, and the calls it makes on its way."""
    root = MemoryRoot()
    store, backend = root.process()
    go(graph, store, executor)
    calls = list(backend.log)
    complete = finished(root, graph, store)
    assert len(complete) == len(graph)
    return complete, calls


def receipts(root: MemoryRoot) -> set[tuple[str, int]]:
    """Key and number of all parts that have a receipt."""
    names = [name.split("/") for name in root.objects("artifacts") if "/parts/" in name]
    return {(name[2], int(name[-1].removesuffix(".json"))) for name in names}


def go(graph: Sequence[Step], store: Store, executor: Callable[[], Executor] = Inline) -> RunResult:
    """A run in this process."""
    return run(graph, store, executor, study="arithmetic")


def go_counted(graph: Sequence[Step], store: Store, executor: Callable[[], Executor] = Inline) -> list[tuple[str, int]]:
    """A run in this process; returns key and number of the parts that it has done."""
    keys: dict[str, str] = {}
    done: list[tuple[str, int]] = []

    def listen(event: Event) -> None:
        if event.kind == "step_started":
            keys[event.step] = event.fields["key"][:16]
        if event.kind == "part_done":
            done.append((keys[event.step], event.fields["part"]))

    run(graph, store, executor, study="arithmetic", listener=listen)
    return done
