"""The question shift from a study to its page, with a decoder that is trained for a moment."""

from pathlib import Path

import yaml

from cluster.inline import Inline
from pipeline.graph import graph_of
from pipeline.run import run
from pipeline.store import open_store
from pipeline.study import load

STUDY = {
    "study": "shifted",
    "dataset": {
        "listing": {
            "source": {"kind": "scenes", "count": 240},
            "unseen": [{"shape": ["disc", "ring", "bar", "star"], "hue": [0.8, 0.3]}],
        }
    },
    "encoders": {"net": {"kind": "untrained", "architecture": {"widths": [4], "blocks": [1], "projector": [4]}}},
    "readers": {"num_images": 64, "widths": [4, 8]},
    "probes": {"epochs": 1},
    "decoder": {
        "taps": ["net:backbone"],
        "num_images": 64,
        "network": {"channels": [8, 8], "blocks": [1, 1], "width": 16, "sketch": [8, 16]},
        "training": {"sketch_images": 64},
    },
    "samples": {"per_source": 2, "steps": 2},
    "shifted": {"count": 24, "walks": 4, "steps": 1},
    "questions": {"shift": {}},
}


def test_shift_asks_about_combinations_that_no_training_has_seen_and_stands_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    done = run(graph_of(load(str(tmp_path / "study.yaml"))), open_store(str(tmp_path / "store")), Inline)
    images = done.summary("shards")
    assert images["unseen"] > 40
    assert images["train"] + images["heldout"] + images["unseen"] == 240
    assert done.summary("ask.shift")["conditions"] == 24 + done.summary("ask.shift")["unseen"] + 8
    answer = done.summary("shift")
    assert answer["seen"] == 24
    assert answer["unseen"] > 15
    assert {"net:backbone hue", "net:backbone walk distance - images"} <= answer["verdicts"].keys()
    page = Path(done.url("report").removeprefix("file://"), "report.html").read_text()
    assert f"{images['unseen']} of unseen combinations" in page
    assert '<section id="shift">' in page
    assert 'id="shift/net:backbone/hue"' in page
