"""What Python users call by `repscope.<name>`: plan, run and show a study, by the same steps as the command line.

A study is what `load` returns, the path of a YAML file, or the name of a recipe. A store is a folder or a URL; without
one it is `$REPSCOPE_STORE`, or `repscope-store` in the working folder.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import UsageError, require_run
from pipeline.graph import encoder_steps_of, encoders_of, graph_of, samples_of, spec_of
from pipeline.plan import StepState
from pipeline.plan import plan as plan_graph
from pipeline.store import Store, open_store
from pipeline.study import Study, load

if TYPE_CHECKING:
    from cluster.executor import Executor
    from pipeline.events import Listener
    from pipeline.run import RunResult

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
    image: str | Path | bytes,
    store: str | Path | None = None,
    *,
    taps: Sequence[str] = (),
    samples: int = 8,
    seed: int = 0,
    guidance: float = 1.0,
) -> bytes:
    """A PNG: `image` (a file, or its bytes) and `samples` samples, one row per tap of a finished study.

    `taps` are `encoder:tap`; all that see pixels where it is empty. Warns where the study as given is not its newest
    finished run. Raises `UsageError` where the study is not finished, `InputError` for an unknown tap or an image that
    cannot be read.
    """
    require_run()
    from cluster.resources import device
    from pipeline.reading import OpenStore
    from stages.samples.show import show as show_image

    read = _study(study)
    done = OpenStore(_store(store)).study(read)
    if not isinstance(image, bytes):
        if not Path(image).is_file():
            raise UsageError("an image file", f"no file {str(image)!r}", "Name an image: PNG or JPEG.")
        image = Path(image).read_bytes()
    picture, _ = show_image(
        image,
        [done.artifact(step.name) for step in graph_of(read) if step.name.split(".")[0] in ("decoder", "extension")],
        specs={name: spec_of(encoder) for name, encoder in encoders_of(read).items()},
        encoders={name: done.artifact(f"encoder.{name}") for name in encoder_steps_of(read)},
        taps=taps,
        settings=samples_of(read).model_copy(update={"per_source": samples, "seed": seed}),
        device=device(),
        guidance=guidance,
        scaled=read.dataset.shards.decode == "scaled",
    )
    return picture


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
