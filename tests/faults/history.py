"""Random histories of one store: runs, edits, damage, garbage collection and clocks, in any order.

The engine, the leases, the records and the collector are the real ones, inline over a store in memory. After each event
the store is compared with the model.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from cluster.inline import Inline
from pipeline.collect import KINDS, Kind, collect, collectable
from pipeline.errors import PipelineError
from pipeline.events import Event
from pipeline.lease import Lease
from pipeline.manifest import close_generation
from pipeline.plan import plan
from pipeline.run import RunResult, run
from stages.errors import StageError
from tests.faults import edited
from tests.faults.faulty import CRASHES, Crash, DeadError
from tests.faults.model import FIELDS, STUDIES, Collecting, Death, Harm, Model
from tests.faults.test_races import Turnstile

HOUR = 3600.0
EDITED = tuple(stage.name for stage in edited.STAGES)

MOST_RUNS = 30
"""A run that harm ends more often does not go on from where it was."""
AMONG = (
    *(f"artifacts/{stage}/" for stage in EDITED),
    *(f"create artifacts/{stage}/" for stage in EDITED),
    *("/a/", "/b/", "/parts/", "/train/", "/files/", "decision.json", "manifest.json", "tombstone.json", "copy "),
)
"""Of which calls to the store one is drawn at which a process fails: of some there are few in a run."""

names = st.sampled_from
studies = names(STUDIES)
picks = st.integers(0, 999)
harms: st.SearchStrategy[Harm] = names(["flip", "cut", "empty", "lose"])


class History(Model, RuleBasedStateMachine):
    """One history: its rules are what may happen, in any order."""

    # What happens.

    @initialize(study=studies)
    def begin(self, study: str) -> None:
        """A first run, so that no history is without artifacts."""
        self.run_to_the_end(study)

    @rule(study=studies, field=names(FIELDS), value=st.integers(1, 2))
    def edit_a_parameter(self, study: str, field: str, value: int) -> None:
        self.fields[study][field] = value

    @rule(stage=names(EDITED), edition=st.integers(0, 2))
    def edit_code(self, stage: str, edition: int) -> None:
        edited.EDITIONS[stage] = edition

    @rule(hours=names([0.1, 2.0, 30.0]))
    def time_passes(self, hours: float) -> None:
        self.server.now += hours * HOUR

    @rule(hours=names([-2, 0, 2]))
    def the_clock_of_the_machine_is_set(self, hours: int) -> None:
        right = time.monotonic
        self.patches.setattr(time, "time", lambda: 1.8e9 + right() + hours * HOUR)

    @rule(study=studies, force=names(("", "", "", *EDITED)), accept_drift=st.booleans())
    def run(self, study: str, force: str, accept_drift: bool) -> None:
        self.run_to_the_end(study, force, accept_drift)

    @rule(study=studies, field=names(FIELDS), value=st.integers(1, 2))
    def edit_a_parameter_and_run(self, study: str, field: str, value: int) -> None:
        self.edit_a_parameter(study, field, value)
        self.run_to_the_end(study)

    @rule(study=studies, stage=names(EDITED), edition=st.integers(0, 2))
    def edit_code_and_make_anew(self, study: str, stage: str, edition: int) -> None:
        self.edit_code(stage, edition)
        self.run_to_the_end(study, force=stage)

    @rule(
        study=studies, crash=names(CRASHES), at=st.integers(0, 25), among=names(AMONG), force=names(("", "", *EDITED))
    )
    def crash(self, study: str, crash: Crash, at: int, among: str, force: str) -> None:
        death = Death(crash, at, among)
        self.server.fresh({threading.current_thread().name: death}, 0.0)
        with suppress(DeadError, PipelineError, StageError):
            self.check_result(study, self.one_run(study, force))
        self.check_bytes()

    @rule(study=studies, crash=names(CRASHES), at=st.integers(0, 25), stage=names(EDITED), accept_drift=st.booleans())
    def crash_then_edit_code_and_go_on(self, study: str, crash: Crash, at: int, stage: str, accept_drift: bool) -> None:
        self.start_anew(study)
        self.crash(study, crash, at, f"artifacts/{stage}/", "")
        edited.EDITIONS[stage] = (edited.EDITIONS.get(stage, 0) + 1) % 3
        self.run_to_the_end(study, "", accept_drift)

    @rule(study=studies, crash=names(CRASHES), at=st.integers(0, 25), stage=names(EDITED), pick=picks, harm=harms)
    def crash_then_harm_and_go_on(self, study: str, crash: Crash, at: int, stage: str, pick: int, harm: Harm) -> None:
        self.start_anew(study)
        self.crash(study, crash, at, f"artifacts/{stage}/", "")
        unfinished = {name for name in self.listed() if not self.committed(name)}
        self.harm_one_of(unfinished, pick, harm)
        self.run_to_the_end(study)

    @rule(
        study=studies,
        crash=names(CRASHES),
        at=st.integers(0, 25),
        stage=names(EDITED),
        kinds=st.sets(names(KINDS), min_size=1),
        hours=names([0.0, 1.0, 24.0]),
    )
    def crash_then_collect_garbage_and_go_on(
        self, study: str, crash: Crash, at: int, stage: str, kinds: set[Kind], hours: float
    ) -> None:
        self.start_anew(study)
        self.crash(study, crash, at, f"artifacts/{stage}/", "")
        self.time_passes(2.0)
        self.server.fresh({}, 0.0)
        self.collected(kinds, hours)
        self.check_bytes(collected=True)
        self.run_to_the_end(study)

    @rule(
        studies=st.tuples(studies, studies),
        seed=picks,
        seconds_a_call=names([None, 0.0, 15.0]),
        all_anew=st.booleans(),
        force=names(("", "", *EDITED)),
        crash=names(CRASHES),
        at=st.integers(-20, 25),
        among=names(AMONG),
    )
    def run_twice_at_once(
        self,
        studies: tuple[str, str],
        seed: int,
        seconds_a_call: float | None,
        all_anew: bool,
        force: str,
        crash: Crash,
        at: int,
        among: str,
    ) -> None:
        first, second = studies
        if all_anew:
            # Both have all steps to do, and the same ones.
            self.start_anew(first)
            self.fields[second] = dict(self.fields[first])
        parts: dict[str, list[str]] = {"a": [], "b": []}
        actions = {
            "a": lambda: self.one_run(first, parts=parts["a"]),
            "b": lambda: self.one_run(second, force, parts=parts["b"]),
        }
        found = self.at_once(actions, {"b": Death(crash, at, among)}, seed, seconds_a_call)
        whole = [(study, found[name]) for name, study in (("a", first), ("b", second))]
        if not force and not self.harmed:
            # What was asked of it by nobody else's fault, a run brings to its end.
            assert isinstance(whole[0][1], RunResult), whole[0][1]
        if seconds_a_call == 0.0:
            both = set(parts["a"]) & set(parts["b"])
            assert not both, f"{sorted(both)} were done by both runs, whose leases had not run out"
        for study, result in whole:
            if isinstance(result, RunResult):
                self.check_result(study, result)
        self.check_bytes()

    @rule(seed=picks, leases=st.booleans())
    def run_the_same_twice_at_once(self, seed: int, leases: bool) -> None:
        self.run_twice_at_once(STUDIES, seed, 0.0 if leases else None, True, "", "die after", -1, "")

    @rule(pick=picks, harm=harms, record=st.booleans())
    def harm(self, pick: int, harm: Harm, record: bool) -> None:
        # Records have no checksum, so what stays JSON is taken as it is.
        self.harm_one_of(
            self.records() if record else self.listed(), pick, "cut" if record and harm == "flip" else harm
        )

    @rule(study=studies, step=names(EDITED))
    def invalidate(self, study: str, step: str) -> None:
        self.server.fresh({}, 0.0)
        folder = self.pointed().get(study, {}).get(step)
        if folder is None or f"{folder}/manifest.json" in self.harmed:
            return
        store = self.process()
        _, stage, short, label = folder.split("/")
        lease = Lease(store, f"{stage}/{short}", "invalidate")
        lease.acquire("wait", lambda owner: None)
        with lease:
            close_generation(store, stage, self.manifest(folder).key, int(label[1:]), "invalidated by hand")

    @rule(kinds=st.sets(names(KINDS), min_size=1), hours=names([0.0, 1.0, 24.0]), at=st.integers(-20, 40))
    def collect_garbage(self, kinds: set[Kind], hours: float, at: int) -> None:
        self.server.fresh({threading.current_thread().name: Death("die after", at)}, 0.0)
        with suppress(DeadError):
            self.collected(kinds, hours)
        self.check_bytes(collected=True)

    @rule(study=studies, seed=picks, kinds=st.sets(names(KINDS), min_size=1))
    def collect_garbage_beside_a_run(self, study: str, seed: int, kinds: set[Kind]) -> None:
        def again_and_again() -> None:
            for _ in range(3):
                self.collected(kinds, 1.0)

        found = self.at_once({"a": lambda: self.one_run(study), "b": again_and_again}, {}, seed, 1.0)
        assert not isinstance(found["b"], BaseException), found["b"]
        if not self.harmed:
            assert isinstance(found["a"], RunResult), found["a"]
        if isinstance(found["a"], RunResult):
            self.check_result(study, found["a"])
        self.check_bytes(collected=True)

    # What processes do.

    def one_run(
        self, study: str, force: str = "", accept_drift: bool = False, parts: list[str] | None = None
    ) -> RunResult:
        """A run in this process, which checks what it does again; `parts` gets the receipts of what it does."""
        there = self.root.objects("artifacts").keys() - self.harmed.keys()
        folders: dict[str, str] = {}

        def listen(event: Event) -> None:
            if event.kind == "step_started":
                folders[event.step] = f"{event.step}/{event.fields['key'][:16]}/g{event.fields['generation']:04d}"
            if event.kind == "part_done":
                name = f"artifacts/{folders[event.step]}/parts/{event.fields['part']:05d}.json"
                assert name not in there, f"{name} was there, and its part was done again"
                if parts is not None:
                    parts.append(name)
            if event.kind == "progress":
                saved = self.checkpoint(f"artifacts/{folders[event.step]}/train/", there)
                assert event.fields["done"] > saved, f"step {saved} was saved, and {event.fields['done']} done again"

        forced = [force] if force else []
        return run(
            self.graph(study),
            self.process(),
            Inline,
            study=study,
            force=forced,
            accept_drift=accept_drift,
            listener=listen,
        )

    def run_to_the_end(self, study: str, force: str = "", accept_drift: bool = False) -> None:
        """A run, and again where harm ends it: each time it says which object it was, and the remedy is applied."""
        before = set(self.seen)
        for _ in range(MOST_RUNS):
            self.server.fresh({}, 0.0)
            try:
                result = self.one_run(study, force, accept_drift)
                break
            except (PipelineError, StageError) as error:
                self.mend(error)
        else:
            raise AssertionError(f"{MOST_RUNS} runs have not brought {study} to its end")
        self.check_result(study, result, accept_drift)
        there = self.root.objects("artifacts")
        for step in result.steps:
            folder = self.folder(step.url)
            assert f"{folder}/tombstone.json" not in there, f"{folder} is closed"
            assert step.name != force or f"{folder}/manifest.json" not in before, f"{folder} is not made anew"
        assert self.pointed()[study] == {step.name: self.folder(step.url) for step in result.steps}
        states = {state.name: state for state in plan(self.graph(study), self.process())}
        for step in result.steps:
            assert states[step.name].state == ("DRIFT" if step.drift else "done"), states[step.name]
        assert self.one_run(study).run_id is None
        self.check_bytes()

    def collected(self, kinds: set[Kind], hours: float) -> None:
        """Collects garbage in this process."""
        store = Collecting(self.server, self.root.url, hours * HOUR)
        collect(store, collectable(store, kinds, hours * HOUR))

    def at_once(
        self,
        actions: Mapping[str, Callable[[], Any]],
        deaths: Mapping[str, Death],
        seed: int,
        seconds_a_call: float | None,
    ) -> dict[str, Any]:
        """What two processes return or raise that take turns in an order drawn from the seed.

        Leases keep them apart where calls take no time, run out where they do, and are not there with None.
        """
        turnstile = Turnstile(seed)
        self.server.fresh(deaths, seconds_a_call or 0.0, turnstile, leases=seconds_a_call is not None)
        found: dict[str, Any] = {}

        def act(name: str) -> None:
            try:
                found[name] = actions[name]()
            except BaseException as error:
                found[name] = error
            finally:
                turnstile.leave()

        threads = [threading.Thread(target=act, args=(name,), name=name) for name in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.server.fresh({}, 0.0)
        for error in found.values():
            if isinstance(error, BaseException) and not isinstance(error, DeadError | PipelineError | StageError):
                raise error
        return found
