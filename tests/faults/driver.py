"""A driver to watch, to kill and to start again: runs the arithmetic or the gated study in a process of its own.

python -m tests.faults.driver STORE EXECUTOR [GATE]      prints one line of JSON per event
"""

import json
import sys
from collections.abc import Callable, Sequence

from cluster.executor import Executor
from pipeline.errors import PipelineError, exit_code
from pipeline.events import Event
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import open_store
from tests.faults import arithmetic, gated

PARTS, STEPS = 4, 3


def graph() -> list[Step]:
    """The arithmetic study as this driver runs it."""
    return arithmetic.graph(parts=PARTS, steps=STEPS)


def executor(name: str) -> Callable[[], Executor]:
    """How an executor is made."""
    if name == "inline":
        from cluster.inline import Inline

        return Inline
    from cluster.on_ray import OnRay

    return lambda: OnRay(cpus=2)


def print_event(event: Event) -> None:
    """Prints an event."""
    print(json.dumps({"kind": event.kind, "step": event.step, **event.fields}, default=str), flush=True)


def main(store: str, name: str, gates: Sequence[str]) -> int:
    """Runs the study; the exit code is that of the command line."""
    steps = gated.graph(gates[0]) if gates else graph()
    try:
        run(steps, open_store(store), executor(name), study="driven", listener=print_event)
    except PipelineError as error:
        print(error, file=sys.stderr)
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
