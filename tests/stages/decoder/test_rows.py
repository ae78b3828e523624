"""Training data on a local disk: the same for any number of ranks, and in memory only what is asked for."""

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.decoder.data import Series
from stages.decoder.objective import Edm
from stages.decoder.run import read_sets
from stages.decoder.stage import Decoder
from stages.errors import InputError
from stages.training.rows import Share, open_rows
from tests.artifacts import FolderArtifact
from tests.stages.decoder.big import big
from tests.stages.decoder.small import NETWORK, TRAINING, scenes

STAGE = Decoder(taps=("oracle:attributes", "oracle:pixels"), size=16, network=NETWORK, training=TRAINING)
# Its server has imported torch already when it makes a process.
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([__name__])


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    (file,), share = open_rows([(10, (2, 3), np.float32)])
    file.write(5, rows[5:])
    file.write(0, rows[:5])
    asked = np.array([7, 0, 7, 9])
    assert np.array_equal(file.read(asked), rows[asked])
    assert file.read(np.array([], dtype=np.int64)).shape == (0, 2, 3)
    assert share == Share(0, 1)


def test_nothing_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (file,), _ = open_rows([(10, (4,), np.uint8)])
    file.write(0, np.ones((10, 4), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert file.read(np.array([3])).tolist() == [[1, 1, 1, 1]]


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_read() -> None:
    with pytest.raises(InputError, match="TMPDIR"):
        open_rows([(10**9, (1024, 1024, 3), np.uint8)])


def batch_of(folder: Path, rank: int, world: int) -> list[bytes]:
    """Noise levels, conditions and pixels of one batch of training images, as one of several ranks reads it."""
    inputs = {name: FolderArtifact(folder / name) for name in ("shards", "embeddings.oracle")}
    train, _ = read_sets(STAGE, inputs, rank, world)
    batch = Series(train, 0, 0.1, Edm(-0.2, 1.2).levels).batch(np.arange(100, 140))
    return [part.numpy().tobytes() for part in (batch.level, batch.h, batch.clean)]


def one_of(rank: int, ports: dict[int, int], folder: str) -> None:
    """One rank as a process, of all the worlds that it belongs to."""
    torch.set_num_threads(1)
    for world, port in ports.items():
        if rank < world:
            address = f"tcp://127.0.0.1:{port}"
            torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
            seen = batch_of(Path(folder), rank, world)
            (Path(folder) / f"{rank}of{world}.pickle").write_bytes(pickle.dumps(seen))
            torch.distributed.destroy_process_group()


def test_batches_are_the_same_for_one_two_and_four_ranks(tmp_path: Path) -> None:
    for name, table in zip(("shards", "embeddings.oracle"), scenes(150), strict=True):
        artifact = FolderArtifact(tmp_path / name)
        for written, data in table.objects.items():
            artifact.put(written, data)
    ports = {}
    for world in (2, 4):
        with socket.create_server(("127.0.0.1", 0)) as server:
            ports[world] = server.getsockname()[1]
    ranks = [FORKING.Process(target=one_of, args=(rank, ports, str(tmp_path))) for rank in range(4)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    alone = batch_of(tmp_path, 0, 1)
    for world in ports:
        seen = [pickle.loads((tmp_path / f"{rank}of{world}.pickle").read_bytes()) for rank in range(world)]
        assert seen == [alone] * world


def peak_bytes(folder: Path) -> int:
    """Peak memory of a process that lays a set down and reads all of it once."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-m", "tests.stages.decoder.read_once", str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, check=True, text=True)
    return int(done.stdout)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for count in (2_048, 20_480):
        big(count, tmp_path / str(count))
        peaks.append(peak_bytes(tmp_path / str(count)))
    # In memory, the larger set's pixels alone would be 252 MB, more than half of what the process holds.
    assert peaks[1] < 1.2 * peaks[0]
