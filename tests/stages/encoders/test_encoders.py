"""Encoders from specs: taps, one pass, fingerprints, refusals."""

import numpy as np
import pytest
import torch
from lightly.models.modules.heads import SimCLRProjectionHead
from pydantic import TypeAdapter, ValidationError

from stages import attributes
from stages.attributes import Attribute
from stages.encoders.augment import Augmentations
from stages.encoders.encoder import NetworkEncoder, probe_batch, require_same
from stages.encoders.format import CARD, WEIGHTS, TrainedCard, dump, read_card
from stages.encoders.load import load
from stages.encoders.network import initialise, projector
from stages.encoders.oracle import vectors
from stages.encoders.spec import Architecture, EncoderSpec, Oracle, Preprocessing, Pretrained, Untrained, require
from stages.errors import FormatError, InputError
from stages.images.framing import fit
from tests.artifacts import MemoryArtifact
from tests.stages.encoders.small import IMAGES, SMALL, count_passes, index, stored_encoder


def test_taps_and_their_widths_are_found_by_a_forward_pass() -> None:
    encoder = load(
        Untrained(architecture=Architecture(widths=(8, 16), blocks=(1, 2), projector=(24, 12, 6))), {}, "cpu"
    )
    assert encoder.taps == {"backbone": 16, "projector.0": 24, "projector.1": 12, "projector": 6}
    found = encoder.embed(IMAGES)
    assert {tap: (v.shape, v.dtype.name) for tap, v in found.items()} == {
        tap: ((len(IMAGES), width), "float32") for tap, width in encoder.taps.items()
    }


def test_all_taps_come_from_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    calls = count_passes(monkeypatch)
    encoder.embed(IMAGES)
    assert calls == [len(IMAGES)]


def test_an_image_is_embedded_alike_in_any_batch() -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    together, alone = encoder.embed(IMAGES), encoder.embed(IMAGES[3:4])
    for tap in encoder.taps:
        np.testing.assert_allclose(together[tap][3:4], alone[tap], rtol=1e-4, atol=1e-6)


def test_convolutions_of_a_gpu_are_float32_while_an_encoder_embeds() -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    assert isinstance(encoder, NetworkEncoder)
    seen = []
    encoder._network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    encoder.embed(IMAGES)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_an_untrained_encoder_is_a_function_of_architecture_and_seed() -> None:
    prints = [load(Untrained(architecture=SMALL, seed=seed), {}, "cpu").fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1]
    assert prints[0].weights_sha256 != prints[2].weights_sha256
    assert prints[0].probe != prints[2].probe


def test_a_stored_encoder_comes_back_as_it_was() -> None:
    artifact, network = stored_encoder()
    encoder = load(Pretrained(), {"encoder": artifact}, "cpu")
    direct = NetworkEncoder(network, Preprocessing(), "cpu")
    assert encoder.fingerprint() == direct.fingerprint()
    for tap, expected in direct.embed(IMAGES).items():
        np.testing.assert_array_equal(encoder.embed(IMAGES)[tap], expected)


def test_preprocessing_is_the_encoders_own() -> None:
    spec = Untrained(architecture=SMALL)
    bright = load(spec.model_copy(update={"preprocessing": Preprocessing(mean=(0.1, 0.1, 0.1))}), {}, "cpu")
    plain = load(spec, {}, "cpu")
    assert not np.allclose(bright.embed(IMAGES)["backbone"], plain.embed(IMAGES)["backbone"])
    assert isinstance(plain, NetworkEncoder)
    black = torch.zeros(1, 3, 32, 32)
    by_hand = plain.forward(black)["backbone"].numpy()
    np.testing.assert_array_equal(plain.embed(np.zeros((1, 32, 32, 3), np.uint8))["backbone"], by_hand)


def test_larger_images_are_brought_to_the_encoders_size() -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    wide = IMAGES.repeat(2, axis=1).repeat(3, axis=2)
    small = np.stack([fit(image, 32) for image in wide])
    np.testing.assert_array_equal(encoder.embed(wide)["backbone"], encoder.embed(small)["backbone"])


def test_gradients_reach_the_pixels_and_not_the_weights() -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    assert isinstance(encoder, NetworkEncoder)
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    encoder.forward(pixels)["projector"].sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    assert pixels.grad.abs().max() > 0


def test_our_projector_and_lightlys_head_are_one() -> None:
    head = SimCLRProjectionHead(16, 24, 6, num_layers=3)
    ours = projector(16, (24, 24, 6))
    ours.load_state_dict(head.layers.state_dict())
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.eval()(x), head.eval()(x))


def test_the_backbone_halves_resolution_at_every_stage_but_the_first() -> None:
    backbone = initialise(Architecture(stem=2, widths=(8, 16, 32), blocks=(1, 1, 1)), 0).backbone
    x = torch.zeros(1, 8, 16, 16)
    assert backbone.stages(x).shape == (1, 32, 4, 4)


def test_multiplications_are_those_of_the_convolutions() -> None:
    architecture = Architecture(stem=2, widths=(8, 16, 24), blocks=(2, 1, 3))
    network = initialise(architecture, 0)
    counted = 0

    def count(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        # Shortcuts of 1 x 1 are left out: a few percent.
        counted += output[0].numel() * module.weight[0].numel() * (module.kernel_size == (3, 3))

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 36, 36))
    assert architecture.multiplications(36) == counted


def test_damaged_weights_are_refused() -> None:
    artifact, _ = stored_encoder()
    data = bytearray(artifact.objects[WEIGHTS])
    data[-1000] ^= 1
    damaged = MemoryArtifact(artifact.objects | {WEIGHTS: bytes(data)})
    with pytest.raises((FormatError, InputError), match=r"sha256|probe batch"):
        load(Pretrained(), {"encoder": damaged}, "cpu")


def test_an_encoder_that_embeds_differently_than_when_stored_is_refused_with_its_taps() -> None:
    encoder = load(Untrained(architecture=SMALL), {}, "cpu")
    expected = encoder.embed(probe_batch(32))
    require_same(expected, encoder.embed(probe_batch(32)))
    moved = expected | {"projector": expected["projector"] * 1.01}
    with pytest.raises(InputError, match=r"projector by 0\.01"):
        require_same(expected, moved)
    with pytest.raises(InputError, match="projector by nan"):
        require_same(expected, expected | {"projector": expected["projector"] * np.nan})


def test_a_card_of_another_format_is_refused() -> None:
    artifact, _ = stored_encoder()
    newer = artifact.objects[CARD].replace(b'"format": 1', b'"format": 2')
    with pytest.raises(FormatError, match="format 2"):
        read_card(MemoryArtifact({CARD: newer}))
    odd = artifact.objects[CARD].replace(b'"method"', b'"methods"')
    with pytest.raises(FormatError, match="methods"):
        read_card(MemoryArtifact({CARD: odd}))


def test_a_missing_encoder_input_is_named() -> None:
    with pytest.raises(InputError, match=r"'encoder'.*inputs images"):
        load(Pretrained(), {"images": MemoryArtifact()}, "cpu")


def test_an_unknown_tap_is_answered_with_those_that_exist_and_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"backbone, projector\.0, projector; found 'projektor'.*'projector'"):
        require("tap of simclr", "projektor", ["backbone", "projector.0", "projector"])
    with pytest.raises(InputError, match="Choose one of them"):
        require("encoder", "zzz", ["simclr"])
    require("encoder", "simclr", ["simclr"])


def test_a_spec_is_chosen_by_its_kind_and_an_unknown_one_is_refused() -> None:
    adapter: TypeAdapter[EncoderSpec] = TypeAdapter(EncoderSpec)
    for spec in (Pretrained(), Untrained(seed=4), Oracle()):
        assert adapter.validate_json(adapter.dump_json(spec)) == spec
    with pytest.raises(ValidationError, match="'pretrained', 'untrained', 'oracle'"):
        adapter.validate_python({"kind": "resnet"})
    with pytest.raises(ValidationError, match="one number of blocks per width"):
        Architecture(widths=(8, 16), blocks=(1,))


def test_a_card_round_trips() -> None:
    artifact, network = stored_encoder()
    card = read_card(artifact)
    again = dump(network, card, {})
    assert TrainedCard.model_validate_json(again[CARD]) == card
    assert card.augmentations == Augmentations()


def test_the_oracle_knows_the_truth_by_row_and_mirrors_it() -> None:
    oracle = load(Oracle(), {"images": index()}, "cpu")
    assert oracle.taps == {"attributes": 6, "pixels": 192}
    plain = oracle.embed_rows(np.array([0, 1]), "plain")["attributes"]
    flip = oracle.embed_rows(np.array([0, 1]), "flip")["attributes"]
    np.testing.assert_allclose(plain, [[1, 0, 0, 0.25, 0, 1], [0, 0, 1, 0.5, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(flip, [[1, 0, 0, 0.75, 0, -1], [0, 0, 1, 0.5, 0, 0]], atol=1e-7)


def test_the_oracle_of_samples_sees_pixels_only() -> None:
    for inputs in ({}, {"images": MemoryArtifact({"samples.parquet": b""})}):
        oracle = load(Oracle(), inputs, "cpu")
        assert oracle.taps == {"pixels": 192}
        assert oracle.embed_rows(np.array([0]), "plain") == {}
    flat = np.full((1, 32, 32, 3), 51, np.uint8)
    np.testing.assert_allclose(oracle.embed(flat)["pixels"], 0.2, atol=1e-6)


def test_what_is_undefined_differs_from_every_defined_value() -> None:
    known = [Attribute(name="angle", kind="circle"), Attribute(name="kind", kind="class", classes=("a", "b"))]
    found = vectors(known, {"angle": np.array([np.nan, 0.0]), "kind": np.array([np.nan, 1.0])})
    assert found.tolist() == [[0, 0, 0, 0], [1, 0, 0, 1]]
    assert attributes.load(attributes.dump(known)) == known
