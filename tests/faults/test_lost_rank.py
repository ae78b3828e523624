"""A process of a training is killed, a rank or one that ranks depend on: the others stop, all begin anew from our
checkpoint, and nothing comes out different.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load

from cluster.inline import Inline
from cluster.on_ray import OnRay
from pipeline.events import Event
from pipeline.run import run
from pipeline.store import open_store
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


def kill(title: str, due: Callable[[], bool], ended: threading.Event, killed: list[int]) -> None:
    """Kills the newest process that is called so, once it is `due`."""
    while not ended.is_set() and not due():
        time.sleep(0.02)
    for process in titled(title)[-1:]:
        process.send_signal(signal.SIGKILL)
        killed.append(process.pid)


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
    root, ended, killed, heard = tmp_path / "store", threading.Event(), list[int](), list[Event]()
    store = open_store(str(root))
    run(graph(DECODER)[:3], store, Inline)
    saved = "artifacts/decoder/*/*/train/*/*/state.json"
    killer = threading.Thread(target=kill, args=(title, lambda: any(root.glob(saved)), ended, killed))
    killer.start()
    try:
        done = run(graph(DECODER), store, OnRay, ranks=2, listener=heard.append)
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 1
    assert len([event for event in heard if event.kind == "part_lost"]) == 1
    again = [event.fields["done"] for event in heard if event.kind == "progress" and event.fields["attempt"] == 2]
    assert min(again) > DECODER.checkpoint_images
    found = load(Path(done.url("decoder"), "decoder.safetensors").read_bytes())
    for name, value in undisturbed.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


@pytest.mark.usefixtures("local_ray")
def test_a_controller_lost_before_a_rank_has_begun_gives_the_ranks_room_back(
    undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    ended, killed, heard = threading.Event(), list[int](), list[Event]()
    store = open_store(str(tmp_path / "store"))
    run(graph(DECODER)[:3], store, Inline)
    # Two ranks fill this machine, and their room is taken when the first process of one is there.
    killer = threading.Thread(target=kill, args=(CONTROLLER, lambda: bool(titled(RANK)), ended, killed))
    killer.start()
    try:
        done = run(graph(DECODER), store, OnRay, ranks=2, listener=heard.append)
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 1
    assert len([event for event in heard if event.kind == "part_lost"]) == 1
    assert not [event for event in heard if event.kind == "progress" and event.fields["attempt"] == 1]
    found = load(Path(done.url("decoder"), "decoder.safetensors").read_bytes())
    for name, value in undisturbed.items():
        assert torch.allclose(found[name], value, atol=1e-4), name
