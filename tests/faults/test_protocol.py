"""What the store's protocol promises when bytes or code change, answers fail, or two runs are at one artifact."""

import re
import threading

import pytest

from cluster.inline import Inline
from pipeline.errors import StepFailedError
from pipeline.manifest import read_receipts
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import Store
from tests.faults.arithmetic import graph
from tests.faults.faulty import FaultyBackend, Place
from tests.faults.truth import finished, go

GRAPH = graph(parts=2, steps=3)


def test_a_flipped_byte_of_an_input_is_refused_and_forcing_its_step_repairs_it() -> None:
    place = Place()
    store, _ = place.process()
    go(GRAPH, store)
    truth = finished(place, GRAPH, store)
    name = next(name for name in place.objects("artifacts/numbers") if name.endswith("/numbers-00001.json"))
    data = place.backend.read(name)
    place.backend.delete(name)
    place.backend.create(name, bytes([data[0], data[1] ^ 1]) + data[2:])
    store, _ = place.process()
    with pytest.raises(StepFailedError, match=rf"{name}.*--force for the step of stage numbers"):
        run(GRAPH, store, Inline, force=["squares"])
    store, _ = place.process()
    run(GRAPH, store, Inline, study="arithmetic", force=["numbers"])
    assert finished(place, GRAPH, store) == truth


def test_a_worker_reads_the_manifest_of_an_input_once_for_all_parts() -> None:
    store, backend = Place().process()
    go(graph(parts=5), store)
    manifest = re.compile(r"read artifacts/numbers/\w+/g0000/manifest\.json")
    reads = [call for call in backend.log if manifest.fullmatch(call)]
    store, backend = Place().process()
    go(graph(parts=1), store)
    assert len(reads) == len([call for call in backend.log if manifest.fullmatch(call)])


def test_receipts_of_a_remote_store_are_read_together_and_in_order() -> None:
    place = Place()
    store, _ = place.process()
    go(GRAPH[:1], store)
    folder = plan(GRAPH, store)[0].url.removeprefix(f"{place.url}/")
    before = read_receipts(store, folder, 2)
    both = threading.Barrier(2, timeout=30)

    class Remote(FaultyBackend):
        def read(self, name: str) -> bytes:
            both.wait()
            return super().read(name)

    far = Store(Remote(place.backend), "s3://bucket/store")
    assert read_receipts(far, folder, 2) == before
    assert [receipt.part for receipt in before] == [0, 1]
