"""What the store's protocol promises when bytes or code change, answers fail, or two runs are at one artifact."""

import pytest

from cluster.inline import Inline
from pipeline.errors import StepFailedError
from pipeline.run import run
from tests.faults.arithmetic import graph
from tests.faults.faulty import Place
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
