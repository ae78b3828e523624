"""A published file becomes a decoder: known by its sha256, checked name by name, painting what its own code paints."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.decoder import format
from stages.decoder.rcdm import format as rcdm_format
from stages.decoder.rcdm import published_run as released_run
from stages.decoder.rcdm.published import assembled
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.spec import SAMPLING, AdmSettings
from stages.diffusion import discrete, noise
from stages.errors import FormatError, InputError
from stages.external.files import fetched
from stages.images.pixels import from_network
from stages.samples.paint import paint
from stages.samples.stage import Samples
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.decoder.rcdm.reference import full_shapes, reference

REFERENCE = reference("A")
TAP_ID = "simclr:backbone"
NETWORK = AdmSettings(**{name: REFERENCE.config[name] for name in AdmSettings.model_fields})


def saved(path: Path, content: object) -> str:
    """Writes what a published file holds; returns its sha256."""
    torch.save(content, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stage_of(path: Path, sha256: str, **changes: Any) -> ReleasedDecoder:
    fields: Mapping[str, Any] = {"url": str(path), "sha256": sha256, "taps": (TAP_ID,), "network": NETWORK}
    return ReleasedDecoder(**(dict(fields) | changes))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> ReleasedDecoder:
    path = tmp_path_factory.mktemp("published") / "rcdm.pt"
    return stage_of(path, saved(path, REFERENCE.weights()))


@pytest.fixture(scope="module")
def artifact(stage: ReleasedDecoder) -> MemoryArtifact:
    return run_stage(stage)


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_published_file_paints_what_the_published_code_paints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = reference(name)
    path, h = tmp_path / "rcdm.pt", case.tensor("h")
    network = AdmSettings(**{name: case.config[name] for name in AdmSettings.model_fields})
    schedule = case.config["noise_schedule"]
    stage = stage_of(path, saved(path, case.weights()), network=network, schedule=schedule)
    decoder = format.load(run_stage(stage), "cpu")
    assert dict(decoder.taps) == {TAP_ID: h.shape[1]}
    assert decoder.card.size == network.image_size
    monkeypatch.setattr(noise, "by_step", lambda streams, shape, device: case.loop_noise)
    settings = Samples(sampler="published", steps=10)
    painted = paint(settings, decoder, TAP_ID, h, [0] * len(h), range(len(h))).astype(int)
    # A value at the border of two levels of a pixel may fall to either side.
    away = np.abs(painted - from_network(case.tensor("ddpm10")))
    assert away.max() <= 1
    assert away.mean() < 1e-2


def test_the_published_sampler_has_the_noise_of_each_sample_whatever_the_batch(artifact: MemoryArtifact) -> None:
    decoder, settings = format.load(artifact, "cpu"), Samples(sampler="published", steps=3)
    h = REFERENCE.tensor("h")
    both = paint(settings, decoder, TAP_ID, h, [7, 8], [0, 1]).astype(int)
    alone = paint(settings, decoder, TAP_ID, h[1:], [8], [1]).astype(int)
    assert np.abs(both[1:] - alone).max() <= 1
    other = paint(settings.model_copy(update={"seed": 1}), decoder, TAP_ID, h[1:], [8], [1])
    assert np.abs(alone - other).mean() > 5


def test_samples_are_painted_from_it_as_from_any_decoder(artifact: MemoryArtifact) -> None:
    settings = Samples(**(dict(SAMPLING) | {"steps": 3}))
    painted = paint(settings, format.load(artifact, "cpu"), TAP_ID, REFERENCE.tensor("h"), [7, 8], [0, 0])
    assert painted.shape == (2, 32, 32, 3)
    assert painted.dtype == np.uint8
    assert painted.std() > 10


def test_the_noise_levels_that_are_sampled_are_those_of_the_published_schedule() -> None:
    sigmas = discrete.linear().sigmas
    assert SAMPLING["sigma_max"] == pytest.approx(float(sigmas[-1]), rel=0.01)
    assert sigmas[0] < SAMPLING["sigma_min"] < 0.05


def test_what_a_published_file_does_not_have_is_refused(artifact: MemoryArtifact) -> None:
    decoder = format.load(artifact, "cpu")
    with pytest.raises(InputError, match="simclr:projector"):
        decoder.denoiser("simclr:projector")
    with pytest.raises(InputError, match="width 16"):
        decoder.denoiser(TAP_ID)(REFERENCE.tensor("x"), torch.ones(2), torch.zeros(2, 128))
    with pytest.raises(InputError, match="guidance 1"):
        decoder.free()
    with pytest.raises(InputError, match="guidance 1"):
        paint(Samples(sampler="published"), decoder, TAP_ID, REFERENCE.tensor("h"), [7, 8], [0, 0], 2.0)
    with pytest.raises(InputError, match="1 to 1000 steps"):
        decoder.published(TAP_ID, 1001)
    with pytest.raises(InputError, match="width 16"):
        paint(Samples(sampler="published"), decoder, TAP_ID, torch.zeros(1, 128), [7], [0])
    with pytest.raises(InputError, match="halfway"):
        format.load(artifact, "cpu", "halfway")


def test_weights_are_cut_into_files_and_read_back_as_one(
    stage: ReleasedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rcdm_format, "PIECE_BYTES", 1 << 20)
    cut = run_stage(stage)
    weights = [name for name in cut.names() if name != "decoder.json"]
    assert len(weights) > 2
    assert max(cut.size(name) for name in weights) < (1 << 20) + (1 << 14)
    network = format.load(cut, "cpu").network.state_dict()
    assert all(torch.equal(network[name], tensor) for name, tensor in REFERENCE.weights().items())
    card = format.read_card(cut)
    assert isinstance(card, rcdm_format.AdmCard)
    assert card.weights == {"final": tuple(weights)}
    assert card.published_sha256 == stage.sha256


def test_converting_again_gives_equal_bytes(stage: ReleasedDecoder, artifact: MemoryArtifact) -> None:
    assert run_stage(stage).objects == artifact.objects


def test_weights_of_half_precision_and_of_the_old_file_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({name: t.half() for name, t in REFERENCE.weights().items()}, path, _use_new_zipfile_serialization=False)
    imported = run_stage(stage_of(path, hashlib.sha256(path.read_bytes()).hexdigest()))
    network = format.load(imported, "cpu").network.state_dict()
    assert {tensor.dtype for tensor in network.values()} == {torch.float32}


def test_every_tensor_of_a_full_size_file_is_in_the_network(tmp_path: Path) -> None:
    # Every tensor is one number shown many times, in the file as in memory.
    path = tmp_path / "full.pt"
    sha256 = saved(path, {name: torch.zeros(()).expand(shape) for name, shape in full_shapes().items()})
    with fetched(str(path), sha256) as copy:
        network = assembled(AdmSettings(), 2048, released_run.read(copy.path, str(path)))
    assert len(network.state_dict()) == 494


def test_a_file_that_is_not_the_one_named_is_refused(stage: ReleasedDecoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sha256 0{64}"):
        run_stage(stage.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(InputError, match="a file at"):
        run_stage(stage_of(tmp_path / "absent.pt", "0" * 64))
    with pytest.raises(InputError, match=r"a file at nowhere://rcdm\.pt"):
        run_stage(stage_of(tmp_path, "0" * 64, url="nowhere://rcdm.pt"))


def test_a_tap_of_another_width_is_refused_with_the_widths_of_all(stage: ReleasedDecoder) -> None:
    encoder = MemoryArtifact()
    encoder.summary = {"taps": {"backbone": 16, "projector": 8}}
    assert run_stage(stage, {"encoder": encoder}).summary["taps"] == {TAP_ID: 16}
    encoder.summary = {"taps": {"backbone": 32, "projector": 16}}
    pattern = r"a tap of width 16, .*; found simclr:backbone of width 32\. .*backbone \(32\), projector \(16\)"
    with pytest.raises(InputError, match=pattern):
        run_stage(stage, {"encoder": encoder})


class Code:
    """Something that a pickle would run."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"step": 3, "ema": REFERENCE.weights()}, "entries such as step, ema"),
        ([torch.zeros(1)], "list"),
        (Code(), "torch.save writes"),
        ({name: t for name, t in REFERENCE.weights().items() if name != "out.2.bias"}, "out.2.bias"),
        ({"weight": torch.zeros(1)}, "missing"),
    ],
    ids=["a training's checkpoint", "a list", "code", "a tensor short", "another network"],
)
def test_a_file_that_holds_something_else_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(InputError, match=message):
        run_stage(stage_of(path, saved(path, content)))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"<html>not found</html>", pickle.dumps(3)):
        path = tmp_path / "page.pt"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"torch\.save writes|plain state dict|a web page|an empty file"):
            run_stage(stage_of(path, hashlib.sha256(content).hexdigest()))


def test_a_decoder_whose_tensors_do_not_fit_its_card_is_refused(artifact: MemoryArtifact) -> None:
    card = json.loads(artifact.read("decoder.json"))
    other = json.dumps(card | {"taps": {TAP_ID: 17}}).encode()
    with pytest.raises(FormatError, match="ssl_emb"):
        format.load(MemoryArtifact(artifact.objects | {"decoder.json": other}), "cpu")


def test_where_a_file_lies_is_not_part_of_what_it_is(stage: ReleasedDecoder) -> None:
    from pipeline.key import key_of

    moved = stage.model_copy(update={"url": "s3://bucket/rcdm.pt"})
    assert key_of(stage, {}, {}).digest == key_of(moved, {}, {}).digest
    assert stage.external()["weights"].digest == stage.sha256
    assert Path(stage_of(Path("rcdm.pt"), "0" * 64).url).is_absolute()
