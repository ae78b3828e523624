"""What the page says of encoders: where they are from, how they see images, how good they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages.encoders.spec import Preprocessing
from stages.questions.drawing.section import TrainedBlock
from stages.report.trained import encoders, shown
from tests.artifacts import MemoryArtifact

FORMATS = Path(__file__).parents[2] / "data/formats/v1"
IMPORTED, TRAINED = FORMATS / "imported/network.json", FORMATS / "encoder/encoder.json"


def block(card: Path, summary: dict[str, Any] | None = None, **changes: Any) -> TrainedBlock:
    """What the page says of the encoder `own`, whose card is as committed but for `changes`."""
    document = json.loads(card.read_text()) | changes
    artifact = MemoryArtifact({card.name: json.dumps(document).encode()})
    artifact.summary = summary or {}
    [found] = encoders({"own": artifact}, [])
    return found


def source(**changes: Any) -> dict[str, Any]:
    """The source in the committed card, but for `changes`."""
    return {**json.loads(IMPORTED.read_text())["source"], **changes}


def test_an_imported_encoder_is_shown_with_where_it_is_from_and_all_that_makes_it_that_encoder() -> None:
    found = block(
        IMPORTED, {"parameters": 123456}, source=source(weights="s3://me:secret@bucket/tiny.pth?token=secret")
    )
    assert found.title == "Encoder own"
    assert found.text.startswith("Not trained here. Imported with Python 3.11.7, repscope 0.1.0,")
    document = json.loads(IMPORTED.read_text())
    assert dict(found.facts) == {
        "from": "torch, tests.stages.encoders.files:tiny",
        "weights": "s3://bucket/tiny.pth",
        "sha256 of tiny.pth": document["files"]["tiny.pth"],
        "parameters": "123\u202f456",
        "sees": "the shorter side resized to 18 px, of which the centre, 16 x 16 px (bilinear); "
        "mean 0.485, 0.456, 0.406; standard deviation 0.229, 0.224, 0.225",
        "computes in": "float32",
        "taps": "backbone: 4, normal (1@mean): 4",
        "fingerprint of the weights": document["weights_sha256"],
    }


@pytest.mark.parametrize(
    ("changes", "fact", "expected"),
    [
        ({"source": {"kind": "hf", "path": "gs://me:pw@b/vit", "seed": 0}}, "from", "hf, gs://b/vit"),
        (
            {"source": {"kind": "hf", "path": "a/b", "pretrained": True}, "files": {"commit": "abc"}},
            "weights",
            "the library's own",
        ),
        ({"files": {"commit": "abc"}}, "commit", "abc"),
        (
            {"source": {"kind": "timm", "name": "resnet50", "untrained": True, "seed": 3}},
            "weights",
            "none: random, seed 3",
        ),
        (
            {"source": {"kind": "released", "method": "barlow", "name": "resnet50", "weights": "/b.torch"}},
            "from",
            "a published checkpoint: barlow, resnet50",
        ),
        ({"unused": ["fc.weight", "fc.bias"]}, "in the file without use", "2 names"),
        ({"zeroed": ["mask_token"]}, "not in the file, and of no effect", "1 name"),
    ],
)
def test_every_kind_of_source_says_what_it_is(changes: dict[str, Any], fact: str, expected: str) -> None:
    assert dict(block(IMPORTED, **changes).facts)[fact] == expected


def test_a_pretrained_encoder_is_shown_with_its_method_and_seed_beside_its_accuracy() -> None:
    training = {"seed": 7, "num_images": 240000, "batch": 256, "train_images": 10000, "label": "shape"}
    scores = {"attribute": "shape", "tap": "backbone", "knn": 0.5, "linear": 0.625, "chance": 0.125, "n": 9}
    found = block(TRAINED, {"quality": [scores], "loss": 4.3125}, method="supervised", training=training)
    assert dict(found.facts) == {
        "trained here by": "supervised, for the label shape",
        "seed": "7",
        "images shown": "240\u202f000 (10\u202f000 different ones), batches of 256",
        "sees": "the centre square at 32 x 32 px (bicubic); mean 0.5, 0.5, 0.5; standard deviation 0.25, 0.25, 0.25",
        "taps": "backbone: 16, projector.0: 12, projector: 6",
        "fingerprint of the weights": json.loads(TRAINED.read_text())["weights_sha256"],
    }
    assert found.table is not None
    assert [(row.label, row.cells) for row in found.table.rows] == [
        ("own:backbone", ("0.50", "0.62")),
        ("chance", ("0.12", "0.12")),
    ]


def test_an_encoder_without_class_attributes_to_be_scored_on_has_no_table() -> None:
    found = block(TRAINED)
    assert (found.table, dict(found.facts)["seed"]) == (None, "0")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Preprocessing(size=32, squash=True), "the image squeezed to 32 x 32 px (bicubic)"),
        (
            Preprocessing(size=32, resize=40, squash=True),
            "the image squeezed to 40 x 40 px, of which the centre, 32 x 32 px (bicubic)",
        ),
        (
            Preprocessing(size=32, resize=40, halve=True),
            "both sides halved while that leaves enough, the shorter resized to 40 px, of which the centre, 32 x 32 px "
            "(bicubic)",
        ),
    ],
)
def test_every_framing_has_its_words(how: Preprocessing, expected: str) -> None:
    assert how.words.partition(";")[0] == expected


def test_channels_in_another_order_are_reported() -> None:
    order = "channels in the order blue, green, red"
    assert Preprocessing(channels="bgr").words.endswith(f"; {order}")
    assert order not in Preprocessing().words


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/models/a?b.pth", "/models/a?b.pth"),
        ("https://u:p@host/a.pth?sig=x", "https://host/a.pth"),
        ("simplecache::s3://key:secret@bucket/a", "simplecache::s3://bucket/a"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_secret(url: str, expected: str) -> None:
    assert shown(url) == expected
