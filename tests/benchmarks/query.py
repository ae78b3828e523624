"""Reading a table back: opening a store, 100 random rows, a scan, and nearest neighbours against numpy, Zarr and faiss.

    python -m tests.benchmarks.query [STORE STUDY | chunks | tensorstore | faiss [ROWS [ROUNDS]]]

Prints; asserts nothing. The table has 200 000 rows of 512 features in float16, in a local folder; files are in the
memory of the system, as they have just been written. Medians of several rounds.

`faiss` compares with a flat index of faiss over 1 000 000 rows: `pip install faiss-cpu` first. It needs 1 GB of disk
and 4 GB of memory. Reader and faiss are a process each, and they take turns. faiss compares 100 queries one by one by
itself; it is also asked to multiply matrices, as it does for many queries.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.embeddings import format
from stages.embeddings.format import ROWS, Table, encode_shard, metadata, shard_name
from stages.embeddings.query import BATCH_ROWS, TapTable
from stages.parquet import table_bytes
from tests.artifacts import FolderArtifact

COUNT, WIDTH, PART_ROWS, QUERIES, K = 200_000, 512, 1024, 100, 10


def write(folder: Path, count: int = COUNT) -> tuple[FolderArtifact, FolderArtifact]:
    """A table of normal vectors, and a folder for its images, which are not read."""
    generator = np.random.Generator(np.random.Philox(0))
    table, images = FolderArtifact(folder / "table"), FolderArtifact(folder / "images")
    for part in range(-(-count // PART_ROWS)):
        vectors = generator.standard_normal((min(PART_ROWS, count - part * PART_ROWS), WIDTH), dtype=np.float32)
        table.put(shard_name("backbone", "plain", part), encode_shard(vectors.astype(np.float16), PART_ROWS))
    keys = [f"{row:09d}" for row in range(count)]
    split = ["heldout" if row % 10 == 0 else "train" for row in range(count)]
    own: dict[str, Any] = {"row": np.arange(count), "key": keys, "file_name": keys, "split": split}
    rows = pa.table(own | {"status": ["ok"] * count})
    table.put(ROWS, table_bytes(rows))
    about = {"encoder": "{}", "fingerprint": json.dumps({"taps": {"backbone": WIDTH}}), "views": ["plain"]}
    about |= {"images_key": images.key, **dict.fromkeys(("kind", "units", "metric"), "image")}
    for name, data in metadata({"backbone": WIDTH}, ("plain",), rows, PART_ROWS, "float16", about).items():
        table.put(name, data)
    return table, images


def timed(name: str, work: Callable[[], object], rounds: int = 5) -> float:
    """Prints the median wall and CPU time (that of children too), after one round that is not counted; CPU seconds."""
    work()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), cpu_seconds()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(cpu_seconds() - cpu)
    print(f"  {name:<56} {1e3 * statistics.median(walls):9.1f} ms wall {1e3 * statistics.median(cpus):9.1f} ms CPU")
    return statistics.median(cpus)


def cpu_seconds() -> float:
    """CPU time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def chunk_sizes() -> None:
    """Prints what the number of rows of an inner chunk costs and gains, over half as many rows."""
    generator, count = np.random.Generator(np.random.Philox(1)), COUNT // 2
    chosen = format.CHUNK_ROWS
    for chunk_rows in (64, 128, 256, 512, 1024):
        format.CHUNK_ROWS = chunk_rows
        with tempfile.TemporaryDirectory() as folder:
            stored, images = write(Path(folder), count)
            table, by_zarr = TapTable("mine:backbone", stored, images), Table(stored)
            timed(f"chunks of {chunk_rows}: 100 random rows", partial(some, table, generator, count))
            timed("  all rows, in batches", partial(batches, table))
            timed("  all rows by Zarr", partial(by_zarr.read, "backbone"))
    format.CHUNK_ROWS = chosen


def some(table: TapTable, generator: np.random.Generator, count: int) -> None:
    """Reads 100 random rows."""
    table.numpy(generator.integers(0, count, 100))


def stored_batches(table: TapTable) -> None:
    """Reads all rows as they are stored."""
    for _ in table._batches(np.arange(len(table)), BATCH_ROWS, "plain"):
        pass


def against_tensorstore(folder: Path, table: TapTable, generator: np.random.Generator) -> None:
    """Prints how long tensorstore takes for 100 random rows, and the ratio: `pip install tensorstore` first."""
    import tensorstore as ts

    kvstore = {"driver": "file", "path": f"{folder}/table/embeddings.zarr/backbone/plain/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    theirs = timed(
        "100 random rows by tensorstore", lambda: array[generator.integers(0, COUNT, 100)].read().result(), rounds=15
    )
    ours = timed("100 random rows", partial(some, table, generator, COUNT), rounds=15)
    print(f"  reader / tensorstore: {ours / theirs:.2f} of CPU time")


def batches(table: TapTable) -> None:
    """Reads all rows."""
    for _ in table.batches():
        pass


def brute(vectors: NDArray[np.float16], queries: NDArray[np.float32]) -> NDArray[np.intp]:
    """The nearest by numpy, all in memory: squared distances in float32, then a partition."""
    x = vectors.astype(np.float32)
    distances = np.square(x).sum(axis=1)[None] - 2 * queries @ x.T
    return np.argpartition(distances, K, axis=1)[:, :K]


def opening(store: str, study: str) -> None:
    """Prints the time from the start of a process until a study is open, beside that of a bare process."""
    for name, code in (("python -c pass", "pass"), ("import repscope, open a store and a study", OPEN)):
        timed(name, partial(subprocess.run, [sys.executable, "-c", code, store, study], check=True))


OPEN = "import sys, repscope; repscope.open(sys.argv[1]).study(sys.argv[2])"


SEARCHER = """
import json, os, pathlib, sys, time
way, folder, threads = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
if threads == 1:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
from tests.benchmarks.query import searcher
search = searcher(way, folder)
for line in sys.stdin:
    # The peak of memory is counted anew from here.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    rows = search(line.strip())
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "rows": rows.tolist()}
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    print(json.dumps(spent | {"bytes": 1024 * int(status["VmHWM"].split()[0])}), flush=True)
"""
WAYS = {"reader": "reader", "faiss": "faiss", "faiss, matrices": "faiss"}
"""Ways to search, and the process of each."""


def searcher(process: str, folder: Path) -> Callable[[str], NDArray[Any]]:
    """Opens the table in `folder`; what is returned finds the neighbours of all queries in a way: rows [Q, K]."""
    table = TapTable("mine:backbone", FolderArtifact(folder / "table"), FolderArtifact(folder / "images"))
    queries = np.random.Generator(np.random.Philox(1)).standard_normal((QUERIES, WIDTH), dtype=np.float32)
    if process == "reader":
        assert len(table.rows) == len(table)
        return lambda way: table.nearest(queries, K).column("row").to_numpy().reshape(QUERIES, K)
    import faiss

    index = faiss.IndexFlatL2(WIDTH)
    for _, vectors in table.batches():
        index.add(vectors)
    alone = faiss.cvar.distance_compute_blas_threshold

    def search(way: str) -> NDArray[Any]:
        faiss.cvar.distance_compute_blas_threshold = alone if way == "faiss" else 1
        return np.asarray(index.search(queries, K)[1])

    return search


def against_faiss(count: int, rounds: int) -> None:
    """Prints time and memory of a search through the reader and by faiss, and ratios, with one and two threads."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), count)
        for threads in (1, 2):
            environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
            processes = {
                name: subprocess.Popen(
                    [sys.executable, "-c", SEARCHER, name, folder, str(threads)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    text=True,
                )
                for name in ("reader", "faiss")
            }
            taken = [{way: turn(processes[name], way) for way, name in WAYS.items()} for _ in range(rounds)]
            for process in processes.values():
                process.communicate()
            same = np.mean([np.array(one["reader"]["rows"]) == np.array(one["faiss"]["rows"]) for one in taken])
            print(f"{count:,} rows, {threads} threads, {rounds} rounds; the same rows: {same:.2%}")
            for unit, scale in (("wall", 1.0), ("cpu", 1.0), ("bytes", 1e-6)):
                for way in WAYS:
                    ratios = sorted(one["reader"][unit] / one[way][unit] for one in taken)
                    print(
                        f"  {unit if scale == 1 else 'MB':<5} {way:<16} "
                        f"{statistics.median(scale * one[way][unit] for one in taken):9.2f}"
                        + f"  reader / {way}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                        * (way != "reader"),
                        flush=True,
                    )


def turn(process: "subprocess.Popen[str]", way: str) -> dict[str, Any]:
    """Lets a process search once."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{way}\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def main(words: list[str]) -> None:
    """All of it; with STORE and STUDY also how long opening them takes. `chunks`, `tensorstore` and `faiss` do
    only what they name."""
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; rows of {WIDTH} float16")
    if words == ["chunks"]:
        chunk_sizes()
        return
    if words[:1] == ["faiss"]:
        count, rounds = [*map(int, words[1:]), *(1_000_000, 5)[len(words) - 1 :]]
        against_faiss(count, rounds)
        return
    print(f"{COUNT:,} rows")
    if len(words) == 2:
        opening(*words)
    with tempfile.TemporaryDirectory() as folder:
        stored, images = write(Path(folder))
        table, by_zarr = TapTable("mine:backbone", stored, images), Table(stored)
        generator = np.random.Generator(np.random.Philox(1))
        if words == ["tensorstore"]:
            against_tensorstore(Path(folder), table, generator)
            return
        timed("100 random rows", partial(some, table, generator, COUNT), rounds=15)
        timed("100 random rows by Zarr", lambda: by_zarr.read("backbone", rows=generator.integers(0, COUNT, 100)))
        timed("all rows, in batches", partial(batches, table), rounds=3)
        timed("all rows by Zarr", lambda: by_zarr.read("backbone"), rounds=3)
        np.save(Path(folder, "vectors.npy"), vectors := table.numpy().astype(np.float16))
        # In turns, as other work on the machine changes both.
        ratios = []
        for _ in range(3):
            plain = timed("all rows by np.load, without checksums", lambda: np.load(Path(folder, "vectors.npy")))
            ratios.append(plain / timed("all rows as they are stored", partial(stored_batches, table)))
        print(f"  np.load / reader: {', '.join(f'{ratio:.2f}' for ratio in ratios)} of CPU time")
        queries = generator.standard_normal((QUERIES, WIDTH), dtype=np.float32)
        timed(f"{K} neighbours of {QUERIES}, from the folder", lambda: table.nearest(queries, K), rounds=3)
        timed("the same by numpy, from memory", lambda: brute(vectors, queries), rounds=3)
        timed("the same among a tenth", lambda: table.nearest(queries, K, where="split = 'heldout'"), rounds=3)


if __name__ == "__main__":
    main(sys.argv[1:])
