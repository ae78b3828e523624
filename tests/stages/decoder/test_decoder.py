"""The step: from shards and embeddings to a decoder that paints from raw embeddings."""

import json

import numpy as np
import pytest
import torch

from stages.decoder import format
from stages.decoder.card import Point, Snapshot, still_falling
from stages.decoder.conditioning import NULL
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.run import read_sets
from stages.decoder.spec import NetworkSettings
from stages.decoder.stage import Decoder
from stages.embeddings.format import open_table
from stages.errors import FormatError, InputError
from stages.images.pixels import to_network
from stages.images.sets import open_images
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.decoder.small import NETWORK, TRAINING, scenes

STAGE = Decoder(taps=("oracle:attributes", "oracle:pixels"), size=16, num_images=64, network=NETWORK, training=TRAINING)


@pytest.fixture(scope="module")
def inputs() -> dict[str, MemoryArtifact]:
    shards, embeddings = scenes()
    return {"shards": shards, "embeddings.oracle": embeddings}


@pytest.fixture(scope="module")
def artifact(inputs: dict[str, MemoryArtifact]) -> MemoryArtifact:
    return run_stage(STAGE, inputs)


def trained(artifact: MemoryArtifact, snapshot: Snapshot = "final") -> format.TrainedDecoder:
    decoder = format.load(artifact, "cpu", snapshot)
    assert isinstance(decoder, format.TrainedDecoder)
    return decoder


def test_the_decoder_is_written_and_read_back(artifact: MemoryArtifact, inputs: dict[str, MemoryArtifact]) -> None:
    assert artifact.names() == [format.CARD, format.WEIGHTS, format.HALFWAY]
    decoder = trained(artifact)
    table = open_table(inputs["embeddings.oracle"])
    assert dict(decoder.taps) == {tap_id: table.taps[tap_id.split(":")[1]] for tap_id in STAGE.taps}
    assert [point.images for point in decoder.card.curve] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert artifact.summary["heldout"] == decoder.card.curve[-1].heldout


def test_conditions_are_raw_embeddings(artifact: MemoryArtifact, inputs: dict[str, MemoryArtifact]) -> None:
    decoder = trained(artifact)
    table = open_table(inputs["embeddings.oracle"])
    raw = table.read("pixels", rows=[0, 1, 2])
    expected = table.statistics("pixels").standardise(raw)
    assert torch.allclose(decoder.standardise("oracle:pixels", torch.from_numpy(raw)), torch.from_numpy(expected))
    x, sigma = torch.randn(3, 3, 16, 16), torch.full((3,), 0.5)
    denoised = decoder.denoiser("oracle:pixels")(x, sigma, torch.from_numpy(raw))
    direct = decoder.network(x, sigma, torch.from_numpy(expected), torch.ones(3, dtype=torch.int64))
    assert torch.allclose(denoised, direct, atol=1e-5)
    assert denoised.dtype == torch.float32


def test_convolutions_of_a_gpu_are_float32_while_a_decoder_of_that_precision_paints(artifact: MemoryArtifact) -> None:
    decoder, seen = trained(artifact), list[bool]()
    decoder.network.painter.unet.stem.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    decoder.free()(torch.randn(1, 3, 16, 16), torch.ones(1), torch.zeros(1, 4))
    assert decoder.card.training.precision == "float32"
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_the_halfway_snapshot_is_another_painter_with_the_same_sketch(artifact: MemoryArtifact) -> None:
    final, halfway = trained(artifact), trained(artifact, "halfway")
    assert torch.equal(final.network.sketch.out.weight, halfway.network.sketch.out.weight)
    assert not torch.equal(final.network.painter.unet.out.weight, halfway.network.painter.unet.out.weight)


def test_a_row_is_denoised_alone_as_in_a_mixed_batch() -> None:
    network = DecoderNetwork(NETWORK, [4, 3], 8).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    h = torch.randn(3, 4)
    h[1, 3] = 0.0
    tap = torch.tensor([0, 1, NULL])
    x, sigma = torch.randn(3, 3, 8, 8), torch.tensor([0.1, 1.0, 10.0])
    together = network(x, sigma, h, tap)
    for row in range(3):
        here = slice(row, row + 1)
        assert torch.allclose(network(x[here], sigma[here], h[here], tap[here]), together[here], atol=1e-5)
    other = h.clone()
    other[2] = 5.0
    assert torch.equal(network(x, sigma, other, tap)[2], together[2])


def test_where_noise_hides_everything_the_denoiser_answers_with_its_sketch() -> None:
    network = DecoderNetwork(NETWORK, [4], 8).eval()
    torch.nn.init.normal_(network.sketch.out.weight, std=0.1)
    h, tap = torch.randn(2, 4), torch.zeros(2, dtype=torch.int64)
    denoised = network(torch.zeros(2, 3, 8, 8), torch.full((2,), 1e4), h, tap)
    assert torch.allclose(denoised, network.sketch(h, tap), atol=1e-3)


def test_an_unknown_tap_is_refused_with_those_that_exist(
    artifact: MemoryArtifact, inputs: dict[str, MemoryArtifact]
) -> None:
    with pytest.raises(InputError, match="oracle:attributes"):
        format.load(artifact, "cpu").denoiser("oracle:none")
    with pytest.raises(InputError, match="attributes"):
        run_stage(STAGE.model_copy(update={"taps": ("oracle:none",)}), inputs)


def test_a_size_the_network_cannot_work_at_is_refused(inputs: dict[str, MemoryArtifact]) -> None:
    with pytest.raises(InputError, match="multiple of 4"):
        run_stage(STAGE.model_copy(update={"size": 18}), inputs)


def test_a_decoder_too_large_for_one_file_is_refused_before_it_is_trained(
    inputs: dict[str, MemoryArtifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        format.require_one_file(DecoderNetwork(NetworkSettings(), [2048] * 8, 256))
        with pytest.raises(InputError, match=r"1\.5\d GiB of the sketch.* Lower the last width of network\.sketch"):
            format.require_one_file(DecoderNetwork(NetworkSettings(sketch=(1024, 2048)), [2048], 256))
    monkeypatch.setattr(format, "LIMIT_BYTES", 1 << 24)
    monkeypatch.delattr(Training, "advance")
    with pytest.raises(InputError, match="one file"):
        run_stage(STAGE, inputs)


def test_a_card_of_another_format_is_refused(artifact: MemoryArtifact) -> None:
    document = json.loads(artifact.read(format.CARD))
    newer = MemoryArtifact(artifact.objects | {format.CARD: json.dumps(document | {"format": 2}).encode()})
    with pytest.raises(FormatError, match="format 2"):
        format.load(newer, "cpu")
    other = document | {"taps": {"oracle:pixels": 5}}
    with pytest.raises(FormatError):
        format.load(MemoryArtifact(artifact.objects | {format.CARD: json.dumps(other).encode()}), "cpu")


def test_the_sets_hold_the_images_and_embeddings_of_their_own_split(inputs: dict[str, MemoryArtifact]) -> None:
    train, heldout = read_sets(STAGE, inputs)
    images, table = open_images(inputs["shards"]), open_table(inputs["embeddings.oracle"])
    split = np.array(images.table().column("split").to_pylist())
    for found, name in ((train, "train"), (heldout, "heldout")):
        rows = np.flatnonzero(split == name)
        assert (found.rows == rows).all()
        here, flipped = np.arange(len(rows)), np.arange(len(rows)) % 2 == 1
        h, _ = found.conditions(here, flipped, np.ones(len(rows), dtype=np.int64))
        expected = [table.read("pixels", "flip" if row % 2 else "plain", rows)[row] for row in here]
        assert np.array_equal(h.numpy(), table.statistics("pixels").standardise(np.stack(expected)))
        pixels = to_network(images.decode(rows, STAGE.size))
        plain = np.zeros(len(rows), dtype=np.bool_)
        assert torch.equal(found.shown(here, plain, np.zeros(len(rows), dtype=np.int64)).clean, pixels)


def test_a_loss_that_falls_by_little_at_the_end_is_not_still_falling() -> None:
    losses = {100: (1.0, 1.0), 200: (0.5, 0.5), 300: (0.4, 0.4), 350: (0.39, 0.3), 400: (0.385, 0.2)}
    curve = [Point(images=images, loss=1.0, heldout={"a:a": a, "b:b": b}) for images, (a, b) in losses.items()]
    assert still_falling(curve) == {"a:a": False, "b:b": True}
    assert still_falling(curve[:1]) == {}
