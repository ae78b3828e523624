"""A process of a training is killed, a rank or one that ranks depend on: the others stop, all begin anew from our
checkpoint, and nothing comes out different.
"""

import signal
import threading
import time
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


def kill(title: str, root: Path, ended: threading.Event, killed: list[int]) -> None:
    """Waits for a checkpoint, then kills the newest process below this one that is called so."""
    while not ended.is_set() and not any(root.glob("artifacts/decoder/*/*/train/*/*/state.json")):
        time.sleep(0.02)
    below = psutil.Process().children(recursive=True)
    for process in [process for process in below if title in " ".join(process.cmdline())][-1:]:
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
    killer = threading.Thread(target=kill, args=(title, root, ended, killed))
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
