"""Extensions in a study: what they add to the graph, and that they change nothing of what is there."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import UsageError
from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.plan import keys_of
from pipeline.step import Step
from pipeline.study import load
from stages.questions.asks.stage import Sources
from tests.finished import MICRO

ANSWERS = {"kept", "faithfulness", "invariance", "report"}


def graph(folder: Path, *extensions: dict[str, Any], **changes: Any) -> list[Step]:
    """The micro study with extensions, and with an untrained encoder that nothing else reads."""
    document = yaml.safe_load(MICRO.read_text()) | changes
    document["encoders"]["other"] = {"kind": "untrained", "architecture": {"widths": [8], "blocks": [1]}}
    if extensions:
        document["extensions"] = list(extensions)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document))
    return graph_of(load(str(path)))


def keys(steps: list[Step]) -> dict[str, str]:
    return {name: key.digest for name, key in keys_of(steps, Fingerprints(refresh=False)).items()}


OTHER = {"taps": ["other:backbone"]}
PIXELS = {"taps": ["oracle:pixels"]}


def test_an_extension_leaves_every_step_but_the_answers_as_it_was(tmp_path: Path) -> None:
    before, after = keys(graph(tmp_path)), keys(graph(tmp_path, OTHER))
    assert before.keys() <= after.keys()
    assert {name for name in before if before[name] != after[name]} == ANSWERS


def test_a_second_extension_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    before, after = keys(graph(tmp_path, OTHER)), keys(graph(tmp_path, OTHER, PIXELS))
    assert {name for name in before if before[name] != after[name]} == ANSWERS


def test_what_an_extension_adds(tmp_path: Path) -> None:
    before, after = ({step.name: step for step in steps} for steps in (graph(tmp_path), graph(tmp_path, OTHER, PIXELS)))
    assert after.keys() - before.keys() == {
        "embeddings.other", "probes.1", "extension.1", "ask.sources.1", "samples.sources.1", "samples.sources.1.other",
        "samples.halfway.1", "ask.invariance.1", "samples.invariance.1",
        "extension.2", "ask.sources.2", "samples.sources.2", "samples.halfway.2", "ask.invariance.2",
        "samples.invariance.2",
    }  # fmt: skip
    assert after["extension.1"].inputs == {
        "shards": "shards", "decoder": "decoder", "embeddings.simclr": "embeddings.simclr",
        "embeddings.oracle": "embeddings.oracle", "embeddings.other": "embeddings.other",
    }  # fmt: skip
    assert after["samples.sources.1"].inputs == {"conditions": "ask.sources.1", "decoder": "extension.1"}
    asked = after["ask.sources.1"].stage
    assert isinstance(asked, Sources)
    assert asked.taps == ("other:backbone",)
    assert after["probes.1"].inputs == {"shards": "shards", "embeddings.other": "embeddings.other"}
    assert {"samples.2", "conditions.1", "sample_embeddings.1.other", "halfway_samples.1", "probes.1"} <= set(
        after["kept"].inputs
    )
    assert after["report"].inputs["extension.2"] == "extension.2"


def test_taps_that_read_no_pixels_are_not_asked_about_transforms(tmp_path: Path) -> None:
    taps = {"taps": ["simclr:backbone", "simclr:projector"]}
    decoder = yaml.safe_load(MICRO.read_text())["decoder"] | taps
    names = {step.name for step in graph(tmp_path, {"taps": ["oracle:attributes"]}, decoder=decoder)}
    assert "ask.sources.1" in names
    assert "ask.invariance.1" not in names


def test_taps_of_no_network_are_not_asked_about_attacks(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"kept": {}, "invariance": {}, "robustness": {}}
    names = {step.name for step in graph(tmp_path, PIXELS, OTHER, questions=asked)}
    # An oracle's pixels are transformed, but have no gradient to attack by.
    assert {"ask.invariance.1", "ask.invariance.2", "ask.robustness", "ask.robustness.2"} <= names
    assert not {"ask.robustness.1", "samples.robustness.1"} & names


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([{"taps": ["nobody:backbone"]}], "expected taps of the encoders"),
        ([{"taps": ["other:top"]}], "expected one of the taps of other"),
        ([{"taps": ["simclr:backbone"]}], "found 'simclr:backbone' again"),
        ([OTHER, OTHER], "found 'other:backbone' again"),
        ([{"taps": []}], "extensions.0.taps"),
        ([{"taps": ["other:backbone"], "sketches": 3}], "unknown field 'extensions.0.sketches'"),
    ],
)
def test_an_extension_that_cannot_be_is_refused(tmp_path: Path, extensions: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        graph(tmp_path, *extensions)


def test_with_extensions_no_encoder_is_called_like_a_number(tmp_path: Path) -> None:
    encoders = yaml.safe_load(MICRO.read_text())["encoders"] | {"1st": {"kind": "oracle"}}
    assert graph(tmp_path, encoders=encoders)
    with pytest.raises(UsageError, match="begin with a letter"):
        graph(tmp_path, OTHER, encoders=encoders)


def test_a_published_decoder_is_not_extended(tmp_path: Path) -> None:
    published = {"kind": "released", "url": "x.pt", "sha256": "0" * 64, "taps": ["simclr:backbone"]}
    with pytest.raises(UsageError, match="extensions of a decoder without kind"):
        graph(tmp_path, OTHER, decoder=published)
