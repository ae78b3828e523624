"""What a run would do: the state of every step of a study, its reason, and what it is expected to cost."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pipeline.drift import Code
from pipeline.errors import MissingError, UsageError
from pipeline.fingerprint import Fingerprints
from pipeline.key import Key, key_of
from pipeline.manifest import (
    AT_ONCE,
    Head,
    InputRecord,
    Manifest,
    Survey,
    folder_of,
    read_receipt,
    read_record,
    survey,
    surveys,
)
from pipeline.speed import REFERENCE, Speed
from pipeline.step import Step
from pipeline.store import Store
from stages.contract import Estimate, Summary
from stages.errors import without_credentials

State: TypeAlias = Literal["done", "missing", "partial", "BROKEN", "STALE", "DRIFT"]

SAMPLED_RECEIPTS = 16
"""How many receipts of an unfinished step are read to estimate the time left."""


@dataclass(frozen=True)
class StepState:
    """One step as it stands in the store.

    `parts_done` of `parts` (None: not known before its inputs exist). `seconds` and `size_bytes` are what is still to
    be spent and written, estimated; for a finished step what it took. `measured` says that they come from receipts.
    """

    name: str
    stage: str
    key: str
    url: str
    state: State
    reason: str
    generation: int | None
    parts_done: int
    parts: int | None
    seconds: float
    size_bytes: int
    measured: bool
    warnings: tuple[str, ...] = ()
    """Sentences on what the step would leave out."""

    @property
    def finished(self) -> bool:
        """Whether `run` would leave it as it is."""
        return self.state in ("done", "DRIFT")


@dataclass(frozen=True)
class Difference:
    """A field in which two key documents differ; None stands for absent. `artifact` is the other one's folder."""

    field: str
    now: object
    before: object
    artifact: str


def keys_of(graph: Sequence[Step], fingerprints: Fingerprints, store: Store | None = None) -> dict[str, Key]:
    """The key of every step, by name. Raises `UsageError` for a graph that is none.

    It depends on no artifact, with one exception: while a `store` holds the artifact of a step under the key that it
    had when the path of the user's code was in it, the step keeps that key, and so does all that is made from it.
    """
    keys: dict[str, Key] = {}
    for step in graph:
        if step.name in keys:
            raise UsageError("a name of its own for every step", f"two steps {step.name!r}", "Rename one.")
        for name, source in step.inputs.items():
            if source not in keys:
                raise UsageError(
                    f"a step before {step.name!r} as its input {name!r}", repr(source), "Correct the study."
                )
        inputs = {name: keys[source].digest for name, source in step.inputs.items()}
        external = step.stage.external()
        former = None
        if store is not None and files_of_code([step]):
            former = key_of(step.stage, inputs, fingerprints.former(external), former=True)
            if survey(store, step.stage.name, former.digest).standing in ("none", "closed"):
                former = None
        keys[step.name] = former or key_of(step.stage, inputs, fingerprints.digests(external))
    return keys


def files_of_code(graph: Sequence[Step]) -> list[str]:
    """The paths of the files of code that steps name."""
    found = (outside for step in graph for outside in step.stage.external().values())
    return sorted({outside.url for outside in found if outside.digest == "code"})


def fits(record: Head | Manifest, sources: Mapping[str, InputRecord]) -> str:
    """Why a record does not belong to these inputs; empty where it does."""
    for name, source in sources.items():
        recorded = record.inputs.get(name)
        if recorded is None or recorded.digest != source.digest:
            return f"its input {name} is not the one it was made from"
    return ""


def judge(
    found: Survey, sources: Mapping[str, InputRecord], code: str, accept_drift: bool = False
) -> tuple[State, str]:
    """State and reason of a step whose inputs are all there. `accept_drift`: what other code began is gone on with."""
    if found.standing == "none":
        return "missing", "never made"
    if found.standing == "closed":
        return "missing", "its last generation was closed"
    if found.standing == "broken":
        more = f" and {len(found.problems) - 1} more" if len(found.problems) > 1 else ""
        return "BROKEN", f"{found.problems[0]}{more}"
    if found.manifest is not None:
        if outdated := fits(found.manifest, sources):
            return "STALE", outdated
        if found.manifest.code != code:
            return "DRIFT", "the code has changed since it was made"
        return "done", ""
    assert found.head is not None
    done = f"{len(found.received)} of {found.head.parts} parts"
    if outdated := fits(found.head, sources):
        return "missing", f"{outdated}; {done} are given up"
    if found.head.code != code:
        if accept_drift:
            return "partial", f"{done}, begun by other code"
        return "missing", f"the code has changed since it was begun; {done} are given up"
    return "partial", done


def plan(
    graph: Sequence[Step], store: Store, *, refresh: bool = False, speed: Callable[[], Speed] = lambda: REFERENCE
) -> list[StepState]:
    """The state of every step, in the order of the graph. Lists outside sources only with `refresh`.

    `speed`, of the machine that the seconds are for, is asked for only where a step is still to do.
    Raises `UsageError` for a graph that is none, `InputError` for a source that is missing, `StoreError`.
    """
    store.recognise()
    fingerprints, code = Fingerprints(refresh), Code()
    keys = keys_of(graph, fingerprints, store)
    surveyed = surveys(store, [(step.stage.name, keys[step.name].digest) for step in graph])
    standings: dict[str, tuple[Survey, State, str]] = {}
    sources: dict[str, InputRecord] = {}
    for step in graph:
        found = surveyed[keys[step.name].digest]
        ready = {name: sources[source] for name, source in step.inputs.items() if source in sources}
        state, reason = judge(found, ready, code.digest(type(step.stage)))
        waits = [source for source in step.inputs.values() if source not in sources]
        if waits and state in ("done", "DRIFT"):
            state, reason = "STALE", f"{waits[0]} is {standings[waits[0]][1]} and will be made before it"
        elif waits and state == "missing":
            reason = f"{reason}; needs {_few(list(dict.fromkeys(waits)))}"
        standings[step.name] = found, state, reason
        if state in ("done", "DRIFT"):
            sources[step.name] = found.source()
    code.save()
    fingerprints.save()
    done = {
        name: found.manifest.summary for name, (found, *_) in standings.items() if name in sources and found.manifest
    }
    expected = guesses(graph, done) if len(sources) < len(graph) else {}
    machine = speed() if expected else REFERENCE
    return [_state(step, *standings[step.name], expected.get(step.name), store, machine) for step in graph]


def guesses(graph: Sequence[Step], done: Mapping[str, Summary]) -> dict[str, Estimate]:
    """What every stage expects of itself, and knows where it is `done`, by the summaries.

    Not asked where all is finished: stages may import much to answer.
    """
    found: dict[str, Estimate] = {}
    for step in graph:
        guess = step.stage.estimate({name: found[source] for name, source in step.inputs.items()})
        found[step.name] = step.stage.refined(guess, done[step.name]) if step.name in done else guess
    return found


def _state(
    step: Step, found: Survey, state: State, reason: str, guess: Estimate | None, store: Store, machine: Speed
) -> StepState:
    parts: int | None = None
    done, seconds, size_bytes, measured = 0, 0.0, 0, False
    if guess is not None:
        seconds, size_bytes = guess.cpu_seconds * machine.factor(guess.precision), guess.size_bytes
    if found.manifest is not None:
        parts = found.manifest.parts
        seconds, size_bytes, measured = found.manifest.seconds, found.manifest.size_bytes, True
        done = parts if state in ("done", "DRIFT") else 0
    elif state == "partial" and found.head is not None:
        received = found.received
        parts, done = found.head.parts, len(received)
        sampled = (read_receipt(store, found.folder, part) for part in sorted(received)[:SAMPLED_RECEIPTS])
        receipts = [receipt for receipt in sampled if receipt is not None]
        left = parts - done
        if receipts:
            sizes = [entry.size for receipt in receipts for entry in receipt.objects.values()]
            seconds = left * sum(receipt.seconds for receipt in receipts) / len(receipts)
            size_bytes, measured = int(left * sum(sizes) / len(receipts)), True
    return StepState(
        name=step.name,
        stage=step.stage.name,
        key=found.key,
        url=store.address(found.folder),
        state=state,
        reason=reason,
        generation=found.number if found.number >= 0 else None,
        parts_done=done,
        parts=parts,
        seconds=seconds,
        size_bytes=size_bytes,
        measured=measured,
        warnings=() if guess is None else tuple(map(without_credentials, guess.warnings)),
    )


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def explain(name: str, graph: Sequence[Step], store: Store) -> list[Difference]:
    """What differs between a step's key document and that of the newest other artifact of the same stage.

    Empty where there is no other. Inputs differ by their keys: explain the step that an input comes from. Raises
    `UsageError` where the graph has no such step.
    """
    step = next((step for step in graph if step.name == name), None)
    if step is None:
        raise UsageError(f"one of the steps {', '.join(step.name for step in graph)}", name, "Name one of them.")
    key = keys_of(graph, Fingerprints(refresh=False), store)[name]
    others = _documents(store, step.stage.name, besides=key.short)
    if not others:
        return []
    _, folder, document = max(others, key=lambda entry: entry[0])
    now, before = _flat(key.document), _flat(document)
    return [
        Difference(field, now.get(field), before.get(field), folder)
        for field in sorted(now.keys() | before.keys())
        if now.get(field) != before.get(field)
    ]


def _documents(store: Store, stage: str, besides: str) -> list[tuple[float, str, dict[str, Any]]]:
    """When begun, folder and key document of a stage's artifacts, each of its first generation that is left."""

    def found_in(name: str) -> tuple[float, str, dict[str, Any]]:
        head = read_record(store, name, Head)
        return head.created, name.removesuffix("/artifact.json"), head.document

    def first(short: str) -> tuple[float, str, dict[str, Any]] | None:
        try:
            return found_in(f"{folder_of(stage, short, 0)}/artifact.json")
        except MissingError:
            # Deleted as garbage; a later generation may stand beside it.
            names = (entry.name for entry in store.entries(folder_of(stage, short)))
            return next((found_in(name) for name in names if name.endswith("/artifact.json")), None)

    others = [short for short in store.folders(f"artifacts/{stage}") if short != besides]
    with ThreadPoolExecutor(AT_ONCE if store.far else 1, "explain") as threads:
        return [found for found in threads.map(first, others) if found is not None]


def _flat(document: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A document with nested names joined by dots; lists are values."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat
