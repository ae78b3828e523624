"""Many images from listing to embeddings to `plan`, with stubs for images, for decoding and for the encoder.

    python -m tests.benchmarks.scale [IMAGES]

Everything else is real: engine, store, receipts, merges, tables, Zarr. The images stand in tars of 1 024. The encoder
has two taps of 8 features and two views. All runs inline, so that one process is driver, worker and merge at once, and
its peak of memory is that of whoever needs most. The store is a folder in memory, where the machine has /dev/shm.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.inline import Inline
from pipeline.backends import backend_at
from pipeline.plan import plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store, canonical_url, share
from stages.contract import External, Inputs, Output, Part, Summary
from stages.datasets.tars import WebdatasetSource
from stages.embeddings.pace import Passes
from stages.embeddings.stage import Embeddings
from stages.embeddings.table import EmbeddingState
from stages.encoders.encoder import Encoder, Vectors, View
from stages.encoders.spec import Preprocessing, Untrained
from stages.images.sets import Decoding, open_images
from stages.listing import LISTING_ROWS
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.faults.faulty import FaultyBackend

TAR_ROWS = 1024
FEATURES = 8
HELD_OUT = 6


class StubListing(Listing):
    """Lists tars that are not there."""

    images: int

    def external(self) -> Mapping[str, External]:
        return {}

    def split(self, inputs: Inputs) -> list[Part]:
        return [
            Part(index=start // TAR_ROWS, fields={"start": start, "stop": min(start + TAR_ROWS, self.images)})
            for start in range(0, self.images, TAR_ROWS)
        ]

    def setup(self, inputs: Inputs, device: str) -> Any:
        return None

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        from stages.listing.format import members_name
        from stages.listing.members import FileTable

        rows = range(part.fields["start"], part.fields["stop"])
        digests = np.random.default_rng(part.index).bytes(32 * TAR_ROWS).hex()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / members_name(part.index)
            with FileTable(path, (), LISTING_ROWS) as table:
                for row in rows:
                    at = 64 * (row - rows.start)
                    record = {
                        "name": f"a folder of some length/{row:09d}.jpg",
                        "size": 40_000 + row % 1000,
                        "sha256": digests[at : at + 64],
                        "split": "heldout" if row % HELD_OUT == 0 else "train",
                        "width": 256,
                        "height": 256,
                        "format": "jpg",
                        "status": "ok",
                    }
                    table.add({"source": f"train/{part.index:05d}.tar", "position": 512 * row} | record, {})
            out.put(path.name, path)
        heldout = sum(row % HELD_OUT == 0 for row in rows)
        counts = {"rows": len(rows), "bad": 0, "heldout": heldout, "first_bad": [], "split_fits": True}
        return counts | {"ignored": {}, "ignored_examples": {}, "columns": []}


class StubShards(Shards):
    """Packs images that have no bytes."""

    def setup(self, inputs: Inputs, device: str) -> Any:
        return None

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        from stages.shards.format import shard_name

        rows = part.fields["stop"] - part.fields["start"]
        offsets = [42_000 * row for row in range(rows)]
        written = len(out.put(shard_name(part.index), b"no tar"))
        return {"rows": rows, "ok": rows, "bytes": written, "offsets": offsets, "converted": {}}


class StubEncoder(Encoder):
    """Gives zeros."""

    def __init__(self) -> None:
        self.preprocessing = Preprocessing(size=32)
        self.weights_sha256 = "0" * 64
        self.taps = {"backbone": FEATURES, "projector": FEATURES}

    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        return {tap: np.zeros((len(images), width), np.float32) for tap, width in self.taps.items()}

    def embed_rows(self, rows: NDArray[np.int64], view: View) -> Vectors:
        return {}


class StubEmbeddings(Embeddings):
    """Embeds images that nobody reads; what it writes is encoded and described as always."""

    def setup(self, inputs: Inputs, device: str) -> EmbeddingState:
        encoder, images = StubEncoder(), open_images(inputs["images"])
        split = images.table(("split",)).column("split")
        train = np.asarray(split.to_numpy(zero_copy_only=False) == "train")

        def stream(part: int, *_: object) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
            start = part * images.part_rows
            rows = np.arange(start, min(start + images.part_rows, images.count))
            yield rows, np.zeros((len(rows), 1, 1, 3), np.uint8)

        images.stream = stream  # type: ignore[method-assign,assignment]
        return EmbeddingState(encoder, encoder.fingerprint(), images, train, Passes(encoder, TAR_ROWS), Decoding())


def graph(images: int) -> list[Step]:
    """Listing, shards, embeddings."""
    source = WebdatasetSource(url="/nowhere/*.tar")
    return [
        Step("listing", StubListing(source=source, images=images)),
        Step("shards", StubShards(shard_rows=TAR_ROWS), {"listing": "listing"}),
        Step("embeddings", StubEmbeddings(encoder=Untrained()), {"images": "shards"}),
    ]


def main(images: int = 100_000) -> None:
    """Prints seconds, CPU, memory and requests of each step and of `plan`, then the sizes of what they leave."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        url = canonical_url(folder)
        backend = FaultyBackend(backend_at(url))
        store = Store(backend, url)
        share(store)
        steps = graph(images)
        print(f"{images} images in {-(-images // TAR_ROWS)} tars; {_memory('VmRSS')} MB before the first step")
        for number, step in enumerate(steps, start=1):
            graph_so_far = steps[:number]
            _measured(step.name, backend, lambda graph=graph_so_far: run(graph, store, Inline))  # type: ignore[misc]
        _measured("plan", backend, lambda: plan(steps, store))
        _sizes(store)


def _measured(what: str, backend: FaultyBackend, action: Callable[[], object]) -> None:
    before, started, cpu = backend.calls, time.perf_counter(), time.process_time()
    # From here on the peak counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    action()
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    kinds = Counter(call.partition(" ")[0] for call in backend.log[before:])
    requests = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(f"{what}: {wall:.1f} s, {cpu:.1f} s of CPU, peak {_memory('VmHWM')} MB; {requests}", flush=True)


def _memory(what: str) -> int:
    """Megabytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(f"{what}:"))


def _sizes(store: Store) -> None:
    receipts: Counter[str] = Counter()
    for entry in store.entries("artifacts"):
        _, stage, _, _, name = entry.name.split("/", 4)
        if name.startswith("parts/"):
            receipts[stage] += entry.size
        elif name == "manifest.json" or (name.endswith(".parquet") and "-" not in name):
            print(f"{stage}/{name}: {entry.size / 1e6:.2f} MB")
    for stage, size_bytes in receipts.items():
        print(f"receipts of {stage}: {size_bytes / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
