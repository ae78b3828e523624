"""The command of a submitted run, on the cluster: checks versions and every node, then runs the study.

    python -m pipeline.submitted

Its working folder holds what `pipeline.submitting` has packed. The exit code is that of `repscope run`; 2 where the
cluster is not fit for the run. The top of this module must run on any Python that a cluster may have.
"""

import contextlib
import json
import os
import platform
import sys
from typing import Any, NoReturn


def main() -> None:
    """Checks, then runs."""
    with open("request.json", encoding="utf-8") as file:
        request = json.load(file)
    import ray

    expected, found = request["versions"], versions(ray.__version__)
    if found != expected:
        _refuse(
            f"expected Python {expected[0]} and Ray {expected[1]} on the cluster, as where the run was submitted; "
            f"found Python {found[0]} and Ray {found[1]}. Use the same there and here."
        )
    from cluster.connect import connect
    from cluster.errors import ClusterError
    from cluster.jobs import on_every_node
    from pipeline.cli import main as command_line
    from pipeline.node_checks import missing_here
    from pipeline.run_commands import SUBMITTED
    from stages.external.code import travelled
    from stages.external.files import resolve_from

    # Ray gives it to the command of a job; `auto` may find another Ray of this machine.
    address = os.environ["RAY_ADDRESS"]
    try:
        connection = connect(address)
        try:
            answers = on_every_node(missing_here, request)
        finally:
            _forget(request)
            connection.close()
    except ClusterError as error:
        _refuse(str(error))
    problems = {name: [_reason(a)] if isinstance(a, Exception) else a for name, a in answers.items()}
    if any(problems.values()):
        lines = [f"{name}: {line}" for name, found in sorted(problems.items()) for line in found]
        _refuse("expected every machine of the cluster to have what the run needs; found:\n  " + "\n  ".join(lines))
    resolve_from(request["folder"], request["home"])
    travelled(request["files"])
    command_line(["run", *request["words"], "--address", address], prog_name="repscope", obj=SUBMITTED)


def versions(ray_version: str) -> list[str]:
    """Python and Ray as far as two machines must agree."""
    return [".".join(text.split(".")[:2]) for text in (platform.python_version(), ray_version)]


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"the check could not run: {text[-1]}"


def _forget(request: dict[str, Any]) -> None:
    """Removes the object by which the nodes have recognised the store, where it is here."""
    from pipeline.errors import PipelineError
    from pipeline.store import open_store

    if request["marker"]:
        with contextlib.suppress(PipelineError, OSError):
            open_store(request["store"]).delete(request["marker"])


def _refuse(message: str) -> NoReturn:
    print(f"repscope: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
