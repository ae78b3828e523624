"""A process of a training is killed, a rank or one that ranks depend on: the others stop, all begin anew from our
checkpoint, and nothing comes out different.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load

from cluster.inline import Inline
from cluster.on_ray import OnRay
from pipeline.events import Event
from pipeline.run import run
from pipeline.store import Store, open_store
from stages.decoder.stage import Decoder
from tests.faults.elastic import graph
from tests.stages.decoder.small import FLOAT32, NETWORK

DECODER = Decoder(
    taps=("oracle:attributes",), size=16, num_images=3200, network=NETWORK, training=FLOAT32, checkpoint_images=320
)


RANK, MAILBOX, CONTROLLER = "RayTrainWorker", "Mailbox", "TrainController"
"""Words in the titles of a training's processes."""


def titled(title: str) -> list[psutil.Process]:
    """Processes below this one that are called so, newest last."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def killing(title: str, due: Callable[[], bool]) -> Iterator[list[int]]:
    """Kills the newest process that is called so, once it is `due`; gives the list of what was killed."""
    ended, killed = threading.Event(), list[int]()

    def wait_and_kill() -> None:
        while not ended.is_set() and not due():
            time.sleep(0.02)
        for process in titled(title)[-1:]:
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    try:
        yield killed
    finally:
        ended.set()
        killer.join()


def on_two_ranks(store: Store) -> tuple[dict[str, torch.Tensor], list[Event]]:
    """Weights of the decoder that two ranks have trained, and the events of the run."""
    heard: list[Event] = []
    done = run(graph(DECODER), store, OnRay, ranks=2, listener=heard.append)
    assert len([event for event in heard if event.kind == "part_lost"]) == 1
    return load(Path(done.url("decoder"), "decoder.safetensors").read_bytes()), heard


def done_in(attempt: int, heard: list[Event]) -> list[int]:
    """How much was done in an attempt, at each report."""
    progress = [event.fields for event in heard if event.kind == "progress"]
    return [fields["done"] for fields in progress if fields["attempt"] == attempt]


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To rounding, weight by weight."""
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of the decoder that one rank has trained."""
    done = run(graph(DECODER), open_store(str(tmp_path_factory.mktemp("undisturbed"))), Inline)
    return load(Path(done.url("decoder"), "decoder.safetensors").read_bytes())


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("title", [RANK, MAILBOX, CONTROLLER])
def test_a_training_goes_on_from_its_checkpoint_as_if_no_process_had_been_killed(
    title: str, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    root = tmp_path / "store"
    store = open_store(str(root))
    run(graph(DECODER)[:3], store, Inline)
    saved = "artifacts/decoder/*/*/train/*/*/state.json"
    with killing(title, lambda: any(root.glob(saved))) as killed:
        found, heard = on_two_ranks(store)
    assert len(killed) == 1
    assert min(done_in(2, heard)) > DECODER.checkpoint_images
    assert_equal(found, undisturbed)


@pytest.mark.usefixtures("local_ray")
def test_a_controller_lost_before_a_rank_has_begun_gives_the_ranks_room_back(
    undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    run(graph(DECODER)[:3], store, Inline)
    # Two ranks fill this machine, and their room is taken when the first process of one is there.
    with killing(CONTROLLER, lambda: bool(titled(RANK))) as killed:
        found, heard = on_two_ranks(store)
    assert len(killed) == 1
    assert not done_in(1, heard)
    assert_equal(found, undisturbed)
