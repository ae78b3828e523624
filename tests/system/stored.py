"""A store as whoever comes next finds it."""

from collections.abc import Sequence

from pipeline.manifest import Manifest, Object
from pipeline.plan import plan
from pipeline.step import Step
from pipeline.store import Store


def stored_objects(store: Store, graph: Sequence[Step]) -> dict[str, dict[str, bytes]]:
    """Step -> objects of all steps that count as finished; checks that they are what their manifests say."""
    found = {}
    for state in plan(graph, store):
        if state.finished:
            folder = f"artifacts/{state.stage}/{state.key[:16]}/g{state.generation:04d}"
            manifest = Manifest.model_validate_json(store.read(f"{folder}/manifest.json"))
            found[state.name] = {name: store.read(f"{folder}/{name}") for name in manifest.objects}
            assert {name: Object.of(data) for name, data in found[state.name].items()} == manifest.objects
    return found
