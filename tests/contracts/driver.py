"""A driver for the contract suite to end: `python -m tests.contracts.driver inline|ray run|gang FOLDER`."""

import signal
import sys

from cluster.executor import Call, Executor
from cluster.inline import Inline
from cluster.on_ray import OnRay


def main() -> None:
    """Starts work that never ends."""
    # A test run in the background of a shell ignores Ctrl-C, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, work, folder = sys.argv[1:]
    executor: Executor = {"inline": Inline, "ray": OnRay}[name]()
    with executor:
        if work == "gang":
            executor.gang(Call("g", "tests.contracts.tasks:wait_for_ever", {"folder": folder}), 2)
        else:
            payload = {"id": "c", "folder": folder, "plan": ["wait for ever"]}
            executor.run([Call("c", "tests.contracts.tasks:act", payload)], print)


if __name__ == "__main__":
    main()
