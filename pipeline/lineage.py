"""What the artifacts of a study were made from, as their manifests say: up to the images, and down to the report."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import UsageError
from pipeline.manifest import AT_ONCE, Manifest, Ref, read_record
from pipeline.store import Store
from pipeline.studies import latest


@dataclass(frozen=True)
class Made:
    """A step of a study: the folder of its artifact, when it was committed (seconds since 1970), by which run and host.

    `inputs` are input name -> step. An input that the study has made anew since is empty.
    """

    step: str
    folder: str
    created: float
    run: str
    host: str
    inputs: Mapping[str, str] = field(default_factory=dict)


class Lineage:
    """Which steps of a study were made from which, in the order of the data."""

    def __init__(self, store: Store, refs: Mapping[str, Ref]) -> None:
        with ThreadPoolExecutor(AT_ONCE, "lineage") as threads:
            manifests = threads.map(
                lambda ref: read_record(store, f"{ref.folder}/manifest.json", Manifest), refs.values()
            )
            read = dict(zip(refs, manifests, strict=True))
        steps = {(ref.key, ref.digest): step for step, ref in reversed(list(refs.items()))}
        self._refs = refs
        self.steps: dict[str, Made] = {
            step: Made(
                step=step,
                folder=store.address(refs[step].folder),
                created=manifest.created,
                run=manifest.owner.run,
                host=manifest.owner.host,
                inputs={name: steps.get((source.key, source.digest), "") for name, source in manifest.inputs.items()},
            )
            for step, manifest in read.items()
        }

    def made_from(self, step: str) -> list[str]:
        """All steps that a step was made from, directly or not."""
        return self._closure(step, {name: set(made.inputs.values()) for name, made in self.steps.items()})

    def made_into(self, step: str) -> list[str]:
        """All steps that were made from a step, directly or not. Steps that are one artifact count as one."""
        readers: dict[str, set[str]] = {name: set() for name in self.steps}
        for name, made in self.steps.items():
            for source in made.inputs.values():
                readers.setdefault(source, set()).add(name)
        of_one_artifact: dict[Ref, list[str]] = {}
        for name, ref in self._refs.items():
            of_one_artifact.setdefault(ref, []).append(name)
        for names in of_one_artifact.values():
            every = set[str]().union(*(readers[name] for name in names))
            readers |= dict.fromkeys(names, every)
        return self._closure(step, readers)

    def _closure(self, step: str, edges: Mapping[str, set[str]]) -> list[str]:
        if step not in self.steps:
            raise UsageError(f"one of the steps {', '.join(self.steps)}", repr(step), "Name one of these.")
        found: set[str] = set()
        waiting = [step]
        while waiting:
            new = edges.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return [name for name in self.steps if name in found]


def others_with(store: Store, ref: Ref, besides: str) -> dict[str, list[str]]:
    """Other studies whose newest runs use an artifact, and all their steps that are it or were made from it."""
    found = {}
    for name in store.folders("studies"):
        pointer = None if name == besides else latest(store, name)
        if pointer is not None and (own := [step for step, used in pointer.steps.items() if used == ref]):
            below = Lineage(store, pointer.steps).made_into(own[0])
            found[name] = [step for step in pointer.steps if step in {*own, *below}]
    return found
