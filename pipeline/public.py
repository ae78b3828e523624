"""What Python users call by `repscope.<name>`: plan, run and show a study, by the same steps as the command line.

A study is what `load` returns, the path of a YAML file, or the name of a recipe. A store is a folder or a URL; without
one it is `$REPSCOPE_STORE`, or `repscope-store` in the working folder.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import require_run
from pipeline.graph import graph_of
from pipeline.plan import StepState
from pipeline.plan import plan as plan_graph
from pipeline.store import Store, open_store
from pipeline.study import Study, load

if TYPE_CHECKING:
    from cluster.executor import Executor
    from pipeline.events import Listener
    from pipeline.run import RunResult
    from stages.show.shown import Shown

Executors = Literal["ray", "inline"]


def plan(study: Study | str | Path, store: str | Path | None = None, *, refresh: bool = False) -> list[StepState]:
    """State of each step of a study, in order, with the parts, bytes and seconds that are left.

    `refresh` lists outside sources again. Raises `UsageError` where the study or the store cannot be used.
    """
    from pipeline.speed import measured

    return plan_graph(graph_of(_study(study)), _store(store), refresh=refresh, speed=measured)


def run(
    study: Study | str | Path,
    store: str | Path | None = None,
    *,
    executor: Executors = "ray",
    address: str | None = None,
    force: Sequence[str] = (),
    until: str | None = None,
    keep_going: bool = False,
    listener: "Listener | None" = None,
) -> "RunResult":
    """Brings every step of a study to done, doing only what the store does not hold; says where the artifacts are.

    `executor`: `ray` starts a local Ray, or connects to the cluster at `address`; `inline` works in this process.
    `force` names steps that are made anew, `until` the only one that is wanted, with all that it needs; `keep_going`
    goes on after a failure with what does not need what failed. `listener` is called with each event.
    Raises `UsageError`, `InputError`, `StepFailedError`, `BusyError`, `StoreError`.
    """
    from pipeline.run import run as run_graph

    require_run()
    read = _study(study)
    return run_graph(
        graph_of(read),
        _store(store),
        _executor(executor, address),
        study=read.study,
        force=force,
        until=until,
        keep_going=keep_going,
        ranks=None,
        listener=listener,
    )


def show(
    study: Study | str | Path,
    image: str | Path | bytes | Sequence[str | Path],
    store: str | Path | None = None,
    *,
    taps: Sequence[str] = (),
    samples: int = 8,
    seed: int = 0,
    guidance: float = 1.0,
) -> "Shown":
    """`samples` samples of an image (a file, or its bytes) or of several files, at each tap of a finished study.

    A notebook shows what it returns as a picture; `.png()` and `.page()` are bytes of a picture and of a page, and
    `.taps` has the samples with their distances and ranks as arrays. `taps` are `encoder:tap`; all that see pixels
    where it is empty. Warns where the study as given is not its newest finished run. Raises `UsageError` where the
    study is not finished, `InputError` for an unknown tap or an image that cannot be read.
    """
    from pipeline.reading import OpenStore
    from pipeline.showing import files
    from pipeline.showing import show as paint

    read = _study(study)
    done = OpenStore(_store(store)).study(read)
    if isinstance(image, bytes):
        images = {"image": image}
    else:
        images = files([Path(path) for path in ([image] if isinstance(image, str | Path) else image)])
    return paint(read, done, images, taps=taps, samples=samples, seed=seed, guidance=guidance)


def _study(study: Study | str | Path) -> Study:
    return study if isinstance(study, Study) else load(str(study))


def _store(root: str | Path | None) -> Store:
    return open_store(str(root or os.environ.get("REPSCOPE_STORE", "repscope-store")))


def _executor(name: Executors, address: str | None) -> "Callable[[], Executor]":
    def enter() -> "Executor":
        if name == "inline":
            from cluster.inline import Inline

            return Inline()
        from cluster.on_ray import OnRay

        return OnRay(address=address)

    return enter
