"""Deliberate faults of the engine: each puts a wrong function in the place of a right one, in this process alone."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pipeline import artifact, collect, key, lease, manifest, plan, run, salvage, worker
from pipeline.backends import Entry
from pipeline.errors import ExistsError, MissingError, UnansweredError
from pipeline.manifest import Decision, Object, Receipt, Survey
from pipeline.store import Store
from stages.contract import Stage

BESIDE_A_RUN = "faults/test_collect.py::test_a_run_that_is_under_way_loses_nothing"

Patches = pytest.MonkeyPatch


def put_in_place(patches: Patches, owner: Any, name: str, wrong: Callable[..., Any]) -> None:
    """Puts a wrong function in the place of a right one, which it is given first."""
    right = getattr(owner, name)
    patches.setattr(owner, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))


# Records and commits.


def merge_without_receipts(patches: Patches) -> None:
    def wrong(right: Any, store: Store, folder: str, parts: int) -> list[Receipt]:
        found = (manifest.read_receipt(store, folder, part) for part in range(parts))
        return [receipt for receipt in found if receipt is not None]

    put_in_place(patches, worker, "read_receipts", wrong)


def commit_of_lost_objects(patches: Patches) -> None:
    put_in_place(patches, worker, "missing", lambda right, objects, entries: ())


def manifest_lacks_an_object(patches: Patches) -> None:
    def wrong(right: Any, store: Store, name: str, record: Any) -> Any:
        if name.endswith("/manifest.json"):
            record = record.model_copy(update={"objects": dict(list(record.objects.items())[1:])})
        return right(store, name, record)

    put_in_place(patches, worker, "write_record", wrong)


def hit_with_lost_objects(patches: Patches) -> None:
    put_in_place(patches, manifest, "missing", lambda right, objects, entries: ())


def receipts_are_not_seen(patches: Patches) -> None:
    patches.setattr(Survey, "received", property(lambda survey: set()))


def an_object_counts_as_a_receipt(patches: Patches) -> None:
    def parts(survey: Survey) -> set[int]:
        written = (name for name in survey.entries if not name.startswith(("parts/", "train/")))
        return {int(digit) for name in written for digit in name if digit.isdigit()}

    patches.setattr(Survey, "received", property(parts))


def objects_are_overwritten(patches: Patches) -> None:
    def wrong(right: Any, store: Store, name: str, data: bytes, *most: int) -> Any:
        if name.startswith("artifacts/"):
            store.delete(name)
        return right(store, name, data, *most)

    put_in_place(patches, Store, "create_or_read", wrong)


def a_lost_answer_counts_as_success(patches: Patches) -> None:
    def wrong(right: Any, store: Store, name: str, data: bytes, *most: int) -> Any:
        try:
            store.create(name, data)
        except ExistsError:
            return right(store, name, data, *most)
        except UnansweredError:
            pass
        return data, True

    put_in_place(patches, Store, "create_or_read", wrong)


# Reading.


def bytes_are_not_compared(patches: Patches) -> None:
    put_in_place(patches, artifact, "_intact", lambda right, expected, path, data, remedy="": data)


# Attempts that meet.


def two_attempts_share_a_part(patches: Patches) -> None:
    def wrong(right: Any, output: Any, name: str, data: Any, check: Any = None) -> Any:
        output._follows = False
        return right(output, name, data, check)

    put_in_place(patches, artifact.StoredOutput, "put", wrong)


def trainings_publish_without_a_decision(patches: Patches) -> None:
    def wrong(right: Any, output: Any, receipt: Receipt) -> Decision:
        return Decision(attempt=output._attempt, receipt=receipt)

    put_in_place(patches, artifact.TrainingOutput, "decide", wrong)


def a_lease_keeps_nobody_out(patches: Patches) -> None:
    def wrong(right: Any, store: Store, entries: Any, now: float | None = None) -> Any:
        return None if now is None else right(store, entries, now)

    put_in_place(patches, lease, "holder_of", wrong)


def a_lost_lease_is_not_noticed(patches: Patches) -> None:
    put_in_place(patches, lease.Lease, "check", lambda right, held: None)


def leases_go_by_the_clock_of_the_machine(patches: Patches) -> None:
    put_in_place(patches, lease, "server_time", lambda right, store: time.time())


# What is done again, and what is not.


def drift_is_accepted_without_a_trace(patches: Patches) -> None:
    put_in_place(patches, worker, "combined_code", lambda right, codes: list(codes)[-1])


def other_code_goes_on_unasked(patches: Patches) -> None:
    def wrong(right: Any, job: Any, head: Any, parts: int, accept_drift: bool) -> bool:
        return bool(right(job, head, parts, True))

    put_in_place(patches, run._Job, "fit", wrong)


def other_inputs_go_unnoticed(patches: Patches) -> None:
    for module in (plan, run):
        put_in_place(patches, module, "fits", lambda right, record, sources: "")


def force_adopts(patches: Patches) -> None:
    def wrong(right: Any, engine: Any, job: Any) -> Any:
        return right(engine, replace(job, forced=False))

    put_in_place(patches, run._Engine, "_step", wrong)


def closed_generations_count(patches: Patches) -> None:
    def wrong(right: Any, store: Store, stage: str, digest: str, newest: tuple[int, dict[str, Entry]]) -> Survey:
        number, entries = newest
        if "manifest.json" in entries:
            entries = {name: entry for name, entry in entries.items() if name != "tombstone.json"}
        found: Survey = right(store, stage, digest, (number, entries))
        return found

    put_in_place(patches, manifest, "_judge", wrong)


def checkpoints_are_not_found(patches: Patches) -> None:
    put_in_place(patches, artifact.StoredCheckpoints, "latest", lambda right, checkpoints: None)


# Keys.


def key_without_a_field(field: str) -> Callable[[Patches], None]:
    """The fault that one field of a stage is in no key."""

    def put(patches: Patches) -> None:
        def wrong(right: Any, model: Any, former: bool = False) -> dict[str, Any]:
            return {name: value for name, value in right(model, former).items() if name != field}

        put_in_place(patches, key, "fields_of", wrong)

    return put


def key_without_inputs(patches: Patches) -> None:
    def wrong(right: Any, stage: Stage, inputs: Mapping[str, str], *others: Any) -> Any:
        return right(stage, {}, *others)

    for module in (plan, worker):
        put_in_place(patches, module, "key_of", wrong)


# What is carried over from a damaged generation.


def salvage_carries_receipts_alone(patches: Patches) -> None:
    put_in_place(patches, salvage, "_carry", lambda right, store, before, folder, objects: True)


def salvage_compares_nothing(patches: Patches) -> None:
    def wrong(right: Any, store: Store, name: str, expected: Object) -> str:
        try:
            store.head(name)
        except MissingError:
            return "is missing"
        return ""

    put_in_place(patches, salvage, "problem_of", wrong)


def salvage_does_not_ask_whose_code_it_was(patches: Patches) -> None:
    put_in_place(
        patches, run, "salvage", lambda right, store, head, number, accept_drift: right(store, head, number, True)
    )


# Garbage.


def gc_sees_no_leases(patches: Patches) -> None:
    put_in_place(patches, collect, "holder_of", lambda right, store, entries, now: None)


def gc_sees_no_runs(patches: Patches) -> None:
    put_in_place(patches, collect, "_planned", lambda right, store, run: [])


def gc_sees_no_pointers(patches: Patches) -> None:
    put_in_place(patches, collect, "latest", lambda right, store, study: None)


def gc_gives_no_grace(patches: Patches) -> None:
    put_in_place(patches, collect, "_unreached", lambda right, generation, now, grace: right(generation, now, 0.0))


def gc_goes_by_the_clock_of_the_machine(patches: Patches) -> None:
    put_in_place(patches, collect, "server_time", lambda right, store: time.time())


def gc_takes_checkpoints_in_use(patches: Patches) -> None:
    def wrong(right: Any, generation: Any, since: float) -> Any:
        committed = next(iter(generation.entries.values()))
        return right(replace(generation, entries={"manifest.json": committed, **generation.entries}), since)

    put_in_place(patches, collect, "_finished_checkpoints", wrong)


@dataclass(frozen=True)
class Mutant:
    """A fault of the engine: in a sentence, and how it is put in place.

    `test` finds it where histories seldom do or never: it takes an order of events that is seldom drawn, or something
    that histories lack.
    """

    fault: str
    put: Callable[[Patches], None]
    test: str = ""


MUTANTS = (
    Mutant(
        "A merge leaves out parts without a receipt",
        merge_without_receipts,
        "faults/test_races.py::test_a_part_of_which_a_dead_attempt_has_put_a_half_is_made_again_whole",
    ),
    Mutant("A commit lists objects that are lost", commit_of_lost_objects),
    Mutant("A manifest lacks an object", manifest_lacks_an_object),
    Mutant("An artifact that has lost objects is a hit", hit_with_lost_objects),
    Mutant("Parts with a receipt are done again", receipts_are_not_seen),
    Mutant("A part that has an object, and no receipt, is done", an_object_counts_as_a_receipt),
    Mutant("Objects are overwritten", objects_are_overwritten),
    Mutant(
        "A request without an answer counts as done",
        a_lost_answer_counts_as_success,
        "pipeline/test_artifact.py::test_a_lost_answer_is_resolved_by_what_is_in_the_store",
    ),
    Mutant("Bytes are read without their sha256", bytes_are_not_compared),
    Mutant(
        "Two attempts put objects of one part",
        two_attempts_share_a_part,
        "faults/test_races.py::test_objects_of_one_part_are_of_one_attempt_in_any_order_of_two_runs",
    ),
    Mutant(
        "Trainings publish without a decision",
        trainings_publish_without_a_decision,
        "faults/test_protocol.py::test_files_of_two_trainings_of_one_generation_do_not_mix",
    ),
    Mutant(
        "A lease keeps nobody out",
        a_lease_keeps_nobody_out,
        "pipeline/test_lease.py::test_a_clock_that_is_hours_off_takes_no_lease_from_a_living_owner",
    ),
    Mutant(
        "A run does not notice that its lease is lost",
        a_lost_lease_is_not_noticed,
        "faults/test_protocol.py::test_a_training_that_has_lost_its_lease_ends_while_it_runs",
    ),
    Mutant(
        "Leases go by the clock of the machine",
        leases_go_by_the_clock_of_the_machine,
        "pipeline/test_lease.py::test_a_clock_that_is_hours_off_takes_no_lease_from_a_living_owner",
    ),
    Mutant("`--accept-drift` records today's code alone", drift_is_accepted_without_a_trace),
    Mutant("Other code goes on without `--accept-drift`", other_code_goes_on_unasked),
    Mutant("Other inputs go unnoticed", other_inputs_go_unnoticed),
    Mutant("`--force` takes what is there", force_adopts),
    Mutant("Closed artifacts are hits", closed_generations_count),
    Mutant("A training begins anew in spite of its checkpoints", checkpoints_are_not_found),
    Mutant("Keys leave out `power`, which the bytes show", key_without_a_field("power")),
    Mutant("Keys leave out `seed`, which the bytes do not show", key_without_a_field("seed")),
    Mutant("Keys leave out the inputs", key_without_inputs),
    Mutant("Receipts are carried over without their objects", salvage_carries_receipts_alone),
    Mutant("Damaged objects are carried over", salvage_compares_nothing),
    Mutant(
        "Parts of other code are carried over",
        salvage_does_not_ask_whose_code_it_was,
        "faults/test_salvage.py::test_nothing_is_carried_over_where_all_was_to_be_made_anew",
    ),
    Mutant("`gc` sees no leases", gc_sees_no_leases, BESIDE_A_RUN),
    Mutant("`gc` sees no plans", gc_sees_no_runs, BESIDE_A_RUN),
    Mutant("`gc` sees no pointers of studies", gc_sees_no_pointers),
    Mutant("`gc` gives no grace", gc_gives_no_grace),
    Mutant("`gc` goes by the clock of the machine", gc_goes_by_the_clock_of_the_machine),
    Mutant("`gc` takes checkpoints of unfinished trainings", gc_takes_checkpoints_in_use),
)
