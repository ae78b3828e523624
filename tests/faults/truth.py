"""What must hold of a store whatever has happened to those who wrote it."""

from collections.abc import Sequence

from cluster.inline import Inline
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


def undisturbed(graph: Sequence[Step]) -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """What a run without any fault makes, and the calls it makes on its way."""
    root = MemoryRoot()
    store, backend = root.process()
    go(graph, store)
    calls = list(backend.log)
    complete = finished(root, graph, store)
    assert len(complete) == len(graph)
    return complete, calls


def go(graph: Sequence[Step], store: Store) -> RunResult:
    """A run in this process."""
    return run(graph, store, Inline, study="arithmetic")
