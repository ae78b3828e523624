"""Samples: painted in any order and any batch they are the same, and read back as a set of images."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import xarray
import zarr
from safetensors.numpy import save
from zarr.core.metadata import ArrayV3Metadata

from stages.contract import Estimate
from stages.decoder.extension.stage import Extension
from stages.decoder.format import TrainedDecoder, load
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.spec import AdmSettings
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.spec import NetworkSettings
from stages.decoder.stage import Decoder as DecoderStage
from stages.diffusion.samplers import Denoiser
from stages.embeddings.format import open_table
from stages.errors import FormatError, InputError
from stages.images.pixels import from_network
from stages.images.sets import open_images
from stages.samples.format import decode_shard, shard_name
from stages.samples.paint import PaintingState, paint, paint_part
from stages.samples.stage import Samples
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.decoder.small import NETWORK, TRAINING, scenes

SOURCES = (3, 8, 15)
STAGE = Samples(per_source=2, steps=3, part_conditions=4)


def conditions(vectors: Mapping[str, np.ndarray]) -> MemoryArtifact:
    tap_ids = [(tap_id, source) for tap_id in vectors for source in SOURCES]
    table = pa.table(
        {
            "condition": np.arange(len(tap_ids)),
            "encoder": [tap_id.split(":")[0] for tap_id, _ in tap_ids],
            "tap": [tap_id.split(":")[1] for tap_id, _ in tap_ids],
            "source_row": [source for _, source in tap_ids],
            "variant": ["source"] * len(tap_ids),
            "strength": [0.0] * len(tap_ids),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    tensors: dict[str, np.ndarray] = dict(vectors)
    for number, tap_id in enumerate(vectors):
        tensors[f"condition.{tap_id}"] = np.arange(len(SOURCES)) + number * len(SOURCES)
    objects = {"conditions.parquet": sink.getvalue().to_pybytes(), "conditions.safetensors": save(tensors)}
    return MemoryArtifact(objects, key="1" * 64)


@pytest.fixture(scope="module")
def inputs() -> dict[str, MemoryArtifact]:
    shards, embeddings = scenes()
    tap_ids = ("oracle:attributes", "oracle:pixels")
    stage = DecoderStage(taps=tap_ids, size=16, num_images=64, network=NETWORK, training=TRAINING)
    decoder = run_stage(stage, {"shards": shards, "embeddings.oracle": embeddings})
    table = open_table(embeddings)
    vectors = {tap_id: table.read(tap_id.split(":")[1], rows=list(SOURCES)) for tap_id in tap_ids}
    return {"conditions": conditions(vectors), "decoder": decoder}


def images(artifact: MemoryArtifact) -> np.ndarray:
    found = open_images(artifact)
    return np.concatenate([found.decode_part(part, 16)[1] for part in range(found.parts)])


def test_samples_are_a_set_of_images_with_a_table(inputs: dict[str, MemoryArtifact]) -> None:
    artifact = run_stage(STAGE, inputs)
    found = open_images(artifact)
    assert (found.count, found.part_rows, found.parts) == (12, 8, 2)
    table = found.table()
    assert table.column("sample").to_pylist() == list(range(12))
    assert table.column("k").to_pylist() == [0, 1] * 6
    assert table.column("condition").to_pylist() == [c for c in range(6) for _ in range(2)]
    assert table.column("source_row").to_pylist() == [s for s in SOURCES for _ in range(2)] * 2
    assert table.column("sampler").unique().to_pylist() == ["sde-dpm++2m"]
    array = zarr.open_array(artifact.zarr("images.zarr"), path="pixels", mode="r")
    assert isinstance(array.metadata, ArrayV3Metadata)
    assert array.metadata.dimension_names == ("sample", "y", "x", "channel")
    assert array.attrs["decoder_key"] == inputs["decoder"].key
    assert artifact.summary == {"conditions": 6, "samples": 12, "evaluations": 3}


def test_keys_of_samples_are_of_no_image_and_of_no_other_samples(inputs: dict[str, MemoryArtifact]) -> None:
    table = open_images(run_stage(STAGE, inputs)).table()
    other = open_images(run_stage(STAGE.model_copy(update={"seed": 4}), inputs)).table()
    keys = table.column("key").to_pylist()
    assert len({*keys, *other.column("key").to_pylist()}) == 2 * len(keys)
    assert all(re.fullmatch(r"sample-[0-9a-f]{8}-[0-9]{9}", key) for key in keys)
    assert table.column("source_key").to_pylist()[:2] == ["000000003"] * 2
    assert table.column("painted_from").to_pylist()[0] == "oracle:attributes"
    assert table.column("kind").unique().to_pylist() == ["sample"]


def test_xarray_opens_the_samples_with_what_each_was_painted_from(
    inputs: dict[str, MemoryArtifact], tmp_path: Path
) -> None:
    artifact = run_stage(STAGE, inputs)
    for name, data in artifact.objects.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = xarray.open_zarr(tmp_path / "images.zarr", chunks=None)
    assert dict(found["pixels"].sizes) == {"sample": 12, "y": 16, "x": 16, "channel": 3}
    assert found["source_row"].values.tolist() == [s for s in SOURCES for _ in range(2)] * 2
    assert found["key"].values.tolist() == open_images(artifact).table().column("key").to_pylist()
    assert np.array_equal(found["pixels"].values, images(artifact))


def test_a_sample_depends_on_neither_order_nor_parts_nor_its_neighbours(inputs: dict[str, MemoryArtifact]) -> None:
    whole = images(run_stage(STAGE, inputs))
    backwards = images(run_stage(STAGE, inputs, order=lambda parts: parts[::-1]))
    other_parts = images(run_stage(STAGE.model_copy(update={"part_conditions": 1, "per_source": 1}), inputs))
    assert np.array_equal(whole, backwards)
    assert np.abs(whole[::2].astype(int) - other_parts.astype(int)).max() <= 1


class Indifferent(TrainedDecoder):
    """A decoder that ignores its condition, so that samples differ by noise alone."""

    def denoiser(self, tap_id: str) -> Denoiser:
        return lambda x, sigma, h: x / (1 + sigma.view(-1, 1, 1, 1))

    def mean(self, tap: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda h: torch.zeros(())


def test_noise_is_matched_across_taps_and_differs_between_samples_sources_and_seeds(
    inputs: dict[str, MemoryArtifact],
) -> None:
    state = STAGE.setup(inputs, "cpu")
    found = state.decoder
    assert isinstance(found, TrainedDecoder)
    indifferent = Indifferent(found.card, found.network, found.means, found.scales, found.device)
    out = MemoryArtifact()
    whole = STAGE.model_copy(update={"part_conditions": 6})
    paint_part(whole, 0, PaintingState(indifferent, state.conditions, state.vectors), out)
    painted = decode_shard(out.objects[shard_name(0)], 16, 12, 2).reshape(2, 6, 16, 16, 3)
    assert np.array_equal(painted[0], painted[1])
    assert len(np.unique(painted[0].reshape(6, -1), axis=0)) == 6
    other = images(run_stage(STAGE.model_copy(update={"seed": 4}), inputs))
    assert not np.array_equal(other, images(run_stage(STAGE, inputs)))


def test_an_ancestral_sample_depends_on_neither_parts_nor_neighbours(inputs: dict[str, MemoryArtifact]) -> None:
    stage = STAGE.model_copy(update={"sampler": "ancestral"})
    whole = images(run_stage(stage, inputs))
    other_parts = images(run_stage(stage.model_copy(update={"part_conditions": 1, "per_source": 1}), inputs))
    assert np.abs(whole[::2].astype(int) - other_parts.astype(int)).max() <= 1
    assert not np.array_equal(whole, images(run_stage(stage.model_copy(update={"sampler": "ddim"}), inputs)))


def test_samples_that_are_no_numbers_are_refused_and_not_painted_black(inputs: dict[str, MemoryArtifact]) -> None:
    state = STAGE.setup(inputs, "cpu")
    h = torch.from_numpy(np.stack(state.vectors[:1]))
    rising = STAGE.model_copy(update={"sampler": "ancestral", "sigma_min": 30.0})
    with pytest.raises(InputError, match=r"at oracle:attributes; found .*NaN, by `sampler: ancestral` in 3"):
        paint(rising, state.decoder, "oracle:attributes", h, [3], [0])


def test_the_published_sampler_is_refused_where_no_variance_was_learned(inputs: dict[str, MemoryArtifact]) -> None:
    state = STAGE.setup(inputs, "cpu")
    h = torch.from_numpy(np.stack(state.vectors[:1]))
    with pytest.raises(InputError, match=r"an ADM U-Net, .*learns no variance\. Choose another"):
        paint(STAGE.model_copy(update={"sampler": "published"}), state.decoder, "oracle:attributes", h, [3], [0])


def test_guidance_of_one_changes_nothing_and_of_two_moves_samples_away_from_those_without_a_condition(
    inputs: dict[str, MemoryArtifact],
) -> None:
    state = STAGE.setup(inputs, "cpu")
    h = torch.from_numpy(np.stack(state.vectors[:2]))

    def painted(guidance: float) -> np.ndarray:
        return paint(STAGE, state.decoder, "oracle:attributes", h, [3, 8], [0, 0], guidance).astype(float)

    plain, free, led = painted(1.0), painted(1e-9), painted(2.0)
    assert np.array_equal(plain, paint(STAGE, state.decoder, "oracle:attributes", h, [3, 8], [0, 0]))
    assert np.abs(led - free).mean() > np.abs(plain - free).mean() > 0


def test_samples_start_from_noise_around_the_sketch(inputs: dict[str, MemoryArtifact]) -> None:
    state = STAGE.setup(inputs, "cpu")
    assert isinstance(state.decoder, TrainedDecoder)
    h = torch.from_numpy(np.stack(state.vectors[:2]))
    tap = "oracle:attributes"
    sketch = state.decoder.mean(tap)(h)
    assert sketch.shape == (2, 3, 16, 16)
    # Two levels of little noise: what is painted is what was started from.
    still = STAGE.model_copy(update={"sampler": "ddim", "steps": 2, "sigma_max": 1e-3, "sigma_min": 1e-4})
    painted = paint(still, state.decoder, tap, h, [3, 8], [0, 0])
    assert np.abs(painted.astype(float) - from_network(sketch).astype(float)).max() <= 2


def test_guidance_is_refused_where_no_condition_was_dropped_and_in_extensions_of_such_a_decoder() -> None:
    shards, embeddings = scenes()
    given = {"shards": shards, "embeddings.oracle": embeddings}
    tap_id, other = "oracle:attributes", "oracle:pixels"
    training = TRAINING.model_copy(update={"null": 0.0})
    stage = DecoderStage(taps=(tap_id,), size=16, num_images=16, network=NETWORK, training=training)
    trained = run_stage(stage, given)
    extended = run_stage(Extension(taps=(other,), num_images=16, sketch_images=16), given | {"decoder": trained})
    for tap, artifact in ((tap_id, trained), (other, extended)):
        decoder = load(artifact, "cpu")
        h = torch.zeros(1, decoder.taps[tap])
        assert paint(STAGE, decoder, tap, h, [0], [0]).shape == (1, 16, 16, 3)
        with pytest.raises(InputError, match=r"training dropped no condition .*Paint with guidance 1"):
            paint(STAGE, decoder, tap, h, [0], [0], 2.0)


def test_the_halfway_snapshot_paints_other_samples(inputs: dict[str, MemoryArtifact]) -> None:
    halfway = run_stage(STAGE.model_copy(update={"snapshot": "halfway"}), inputs)
    assert not np.array_equal(images(halfway), images(run_stage(STAGE, inputs)))


def test_a_part_painted_twice_is_adopted_and_a_damaged_one_refused(inputs: dict[str, MemoryArtifact]) -> None:
    out = MemoryArtifact(bitwise=False)
    state = STAGE.setup(inputs, "cpu")
    part = STAGE.split(inputs)[1]
    assert STAGE.work(part, state, inputs, out) == STAGE.work(part, state, inputs, out) == {"samples": 4}
    damaged = bytearray(out.objects[shard_name(1)])
    damaged[100] ^= 1
    out.objects[shard_name(1)] = bytes(damaged)
    with pytest.raises(FormatError, match="checksums"):
        STAGE.work(part, state, inputs, out)


def painting(decoder: Estimate) -> Estimate:
    """The estimate of 100 samples of 10 evaluations each."""
    asked = Estimate(rows=50, size_bytes=0, cpu_seconds=0)
    stage = Samples(per_source=2, steps=10, sampler="euler")
    return stage.estimate({"conditions": asked, "decoder": decoder})


def test_an_estimate_knows_the_decoders_network_and_the_size_of_what_it_paints() -> None:
    plain = DecoderStage(taps=("a:b",)).estimate({})
    small = painting(plain)
    assert (small.rows, small.size_bytes) == (100, 100 * 3072)
    assert small.cpu_seconds == pytest.approx(3 + 1000 * 1.2e-3)
    assert painting(Extension(taps=("a:c",)).estimate({"decoder": plain})) == small
    network = NetworkSettings(channels=(128, 256, 512))
    wide = painting(DecoderStage(taps=("a:b",), size=64, network=network).estimate({}))
    assert wide.size_bytes == 4 * small.size_bytes
    assert wide.cpu_seconds - 3 == pytest.approx(16 * (small.cpu_seconds - 3), rel=0.1)


def test_an_estimate_of_a_published_decoder_goes_by_its_multiplications() -> None:
    published = ReleasedDecoder(url="/rcdm.pt", sha256="0" * 64, taps=("a:b",)).estimate({})
    found = painting(published)
    assert found.size_bytes == 100 * 3 * 128**2
    # 1000 passes of 6e11 operations, of which a CPU does 1.4e11 a second.
    assert found.cpu_seconds == pytest.approx(1000 * 2 * AdmSettings().cost()[1] / 1.4e11, rel=0.01)
    assert painting(Rcdm(taps=("a:b",)).estimate({})) == found
