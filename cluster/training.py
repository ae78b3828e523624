"""Gangs of several ranks on Ray Train V2: one attempt of a call on a group of workers.

Ray Train places the ranks, starts them together and ends all when one is lost. What it would do beyond that is ours:
its checkpoints and its folder are scratch (the store's checkpoints are the truth, so every attempt has a new run name),
and it never retries, because the executor counts attempts. An elastic gang is Ray Train's: it starts with the ranks
that there is room for, and checks every minute whether there is room for more; then it starts all ranks anew.

`DataParallelTrainer`, the base of `TorchTrainer`, is used with a back end of four lines, because `TorchTrainer` imports
torch into the driver and into Train's controller: 0.4 GB and some seconds in each.
"""

import itertools
import os
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import environment
from cluster.executor import AttemptResult, Call, Loss
from cluster.mailbox import NODE_LABEL, Location, Post, here
from cluster.ranks import Rank, attempt_result, free_port, run_rank
from cluster.resources import Layout, device, set_threads

POLL_SECONDS = 0.5

GROUP = "REPSCOPE_GROUP"
"""Environment of a rank: the name of its group, which is new whenever Ray Train starts the ranks of an attempt anew."""

SETTINGS = environment.Shared(
    {
        "RAY_TRAIN_V2_ENABLED": "1",
        # How often the controller checks its workers: by default 2 s, which is how late it sees start and end.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        # How long it waits for the room that it asked for before it counts the machines again: by default 60 s. What it
        # knows of them is up to 20 s old, so that after a loss it first asks for more than there is.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # Each of these costs a process or an import, for what we do not use.
        "RAY_TRAIN_METRICS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
        "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
    }
)
"""Environment of this process during an attempt, which Ray Train hands on to its controller and workers."""


_marks = itertools.count(1)
"""So many bytes of memory are asked for each rank of a gang: nothing to a machine. By it the placement groups of
one gang differ from another's. Ray Train gives them no names."""


class GivenUpError(Exception):
    """Ends an attempt, raised by what reads progress: ranks report nothing any more, or machines of theirs `left`."""

    def __init__(self, reason: str, left: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.left = left


class RankError(Exception):
    """Ends the group: a rank's function raised. What it raised is in the mailbox."""


@SETTINGS.held()
def run_train(
    call: Call,
    payload: str,
    layout: Layout,
    attempt: int,
    folder: Path | None,
    mailbox: Any,
    read: Callable[[], None],
    least: int | None,
    resize_seconds: float,
    machines: Collection[str],
) -> AttemptResult | Loss:
    """One attempt on `layout.workers` ranks, or on `least` and more as room comes and goes.

    Where there are `machines`, the ranks are on these alone; else Ray Train chooses.

    Ray Train checks the room every `resize_seconds`. `read` fetches progress and is called in this thread; what it
    raises ends the attempt.
    """
    import ray
    from ray.train import FailureConfig, RunConfig
    from ray.train.v2.api.config import ScalingConfig

    scratch = tempfile.mkdtemp(prefix="train-", dir=folder)
    mark = next(_marks)
    resources = {"CPU": layout.cpus, "memory": mark} | ({"GPU": layout.gpus} if layout.gpus else {})
    trainer = _trainer_class()(
        train_rank,
        train_loop_config={
            "function": call.function,
            "payload": payload,
            "attempt": attempt,
            "cpus": layout.cpus,
            "mailbox": mailbox,
        },
        backend_config=_rendezvous(),
        scaling_config=ScalingConfig(
            num_workers=layout.workers if least in (None, layout.workers) else (least, layout.workers),
            use_gpu=bool(layout.gpus),
            resources_per_worker=resources,
            label_selector={NODE_LABEL: f"in({','.join(sorted(machines))})"} if machines else None,
            elastic_resize_monitor_interval_s=resize_seconds,
        ),
        run_config=RunConfig(
            name=f"gang-{attempt}-{uuid.uuid4().hex}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    ended = _Fit(trainer)
    try:
        # In the main thread, `fit` would take SIGINT for itself and not give it back.
        ended.start()
        while ended.is_alive():
            ended.join(POLL_SECONDS)
            read()
        ranks: dict[int, Location]
        answers: dict[int, AttemptResult]
        ranks, answers = ray.get([mailbox.ranks.remote(), mailbox.answers.remote()])
        if isinstance(ended.error, ray.exceptions.RayActorError):
            # Train's controller is lost. Without it Ray would keep the ranks' room until we disconnect.
            _give_room_back(mark)
            return _lost(attempt, ended.error)
    except GivenUpError:
        # The ranks end with their room, whatever they wait for.
        _give_room_back(mark)
        raise
    except ray.exceptions.RayActorError as error:
        return _lost(attempt, error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return attempt_result(attempt, answers, _dead(attempt, ended.error, ranks, answers))


def _lost(attempt: int, error: BaseException) -> Loss:
    """The loss of the mailbox or of Train's controller. Both stand on this machine, and ranks end with either."""
    return Loss(attempt, str(error), socket.gethostname(), 0, (here().machine,))


def _give_room_back(mark: int) -> None:
    """Gives up the placement groups of one gang, by its mark; their ids end in that of our job."""
    import ray
    from ray.util.placement_group import PlacementGroup

    job = ray.get_runtime_context().get_job_id()
    for number, group in ray.util.placement_group_table().items():
        marked = any(bundle.get("memory") == mark for bundle in group["bundles"].values())
        if number.endswith(job) and marked and group["state"] != "REMOVED":
            ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(number))))


class _Fit(threading.Thread):
    """`trainer.fit` in a thread of its own."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._trainer = trainer

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error


def _dead(
    attempt: int, error: BaseException | None, ranks: dict[int, Location], answers: dict[int, AttemptResult]
) -> dict[int, Loss]:
    """Ranks that failed without an answer, as Ray Train reports them. Raises what is no failure of a rank."""
    from ray.train import TrainingFailedError

    if error is None:
        return {}
    if not isinstance(error, TrainingFailedError):
        raise error
    failures: dict[int, BaseException] = dict(getattr(error, "worker_failures", {}))
    if not failures and not any(answer.error for answer in answers.values()):
        failures = {0: error}
    dead = {}
    for rank, failure in failures.items():
        if rank not in answers:
            reason = f"{type(failure).__name__}: {failure}"
            where = ranks.get(rank)
            dead[rank] = (
                Loss(attempt, reason, socket.gethostname(), 0)
                if where is None
                else Loss(attempt, reason, where.host, where.pid, (where.machine,))
            )
    return dead


def train_rank(config: dict[str, Any]) -> None:
    """What a Ray Train worker runs."""
    import ray
    import ray.train

    set_threads(config["cpus"])
    mailbox = config["mailbox"]
    threading.Thread(target=_die_with, args=(mailbox,), daemon=True).start()
    context = ray.train.get_context()
    rank = Rank(
        context.get_world_rank(),
        context.get_world_size(),
        device(),
        config["attempt"],
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
    )
    post = Post(mailbox)
    group = os.environ[GROUP]
    ray.get(mailbox.arrive.remote(group, rank.rank, here()))
    answer = run_rank(config["function"], config["payload"], rank, post.send)
    post.flush()
    ray.get(mailbox.answer.remote(group, rank.rank, answer))
    if answer.error is not None:
        raise RankError(answer.error.message)


def _die_with(mailbox: Any) -> None:
    """The driver ends the mailbox when it gives a gang up, whatever has become of Ray Train's controller."""
    import ray

    try:
        ray.get(mailbox.closed.remote())
    except ray.exceptions.RayActorError:
        os._exit(1)


def _trainer_class() -> Any:
    """Ray Train's trainer, without two actors that it starts for every gang, each of which takes seconds of a CPU.

    One hands out data of Ray Data, which we do not use. The other gives the ranks' room back where the controller is
    lost, as we do: see `run_train`. It would never end on a Ray without a dashboard, which is where it asks.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class Trainer(DataParallelTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unused = DatasetsCallback, PlacementGroupCleanerCallback
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unused)]

    return Trainer


def _rendezvous() -> Any:
    """Ray Train's back end: rank 0 chooses the address and port of torch.distributed's rendezvous."""
    from ray.train.backend import Backend, BackendConfig

    class Rendezvous(Backend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            address, port = worker_group.execute_single(0, _choose_address)
            worker_group.execute(_set_address, address, port, uuid.uuid4().hex)

    @dataclass
    class RendezvousConfig(BackendConfig):
        @property
        def backend_cls(self) -> type[Rendezvous]:
            return Rendezvous

    return RendezvousConfig()


def _choose_address() -> tuple[str, int]:
    import ray

    return str(ray.util.get_node_ip_address()), free_port()  # type: ignore[no-untyped-call]


def _set_address(address: str, port: int, group: str) -> None:
    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)
    os.environ[GROUP] = group
