"""Pretraining by any method: resumable to the bit, deterministic, scored on held-out images only."""

import io
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages.attributes import Attribute
from stages.contract import Estimate
from stages.datasets.scenes import render
from stages.datasets.sources import ScenesSource
from stages.encoders.augment import Augmentations
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.format import CARD, WEIGHTS, digest, parse_card
from stages.encoders.load import load
from stages.encoders.spec import Preprocessing, Pretrained
from stages.errors import InputError
from stages.images.pixels import encode_png
from stages.images.sets import INDEX, open_images
from stages.listing.stage import Listing
from stages.pretrain import loop, run
from stages.pretrain.loop import Trainer, TrainSet, learning_rate
from stages.pretrain.quality import knn, linear, score
from stages.pretrain.stage import Checkpoint, Pretrain
from stages.shards.stage import Shards
from stages.training.prefetch import Prefetch
from tests.artifacts import InlineContext, MemoryArtifact, MemoryCheckpoints, run_stage
from tests.stages.pretrain.small import METHODS, SMALL, STAGE, fit, held
from tests.tars import tar_artifact


@pytest.fixture(scope="module")
def shards() -> MemoryArtifact:
    listing = run_stage(Listing(source=ScenesSource(count=150, seed=7), holdout=0.3))
    return run_stage(Shards(shard_rows=64), {"listing": listing})


@pytest.fixture(scope="module")
def scenes() -> np.ndarray:
    return render(7, range(100))[0]


class MachineGoneError(Exception):
    """A machine that goes away."""


@dataclass
class Failing(InlineContext):
    """A context whose process is gone once `after` images have been reported."""

    after: int = 0

    def report(self, done: int, total: int, metrics: object) -> None:
        if done >= self.after:
            raise MachineGoneError


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [160, 320])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(scenes: np.ndarray, method: str, after: int) -> None:
    stage = STAGE.model_copy(update={"method": method})
    straight, loss = fit(stage, scenes, InlineContext())
    checkpoints = MemoryCheckpoints()
    with pytest.raises(MachineGoneError):
        fit(stage, scenes, Failing(checkpoints=checkpoints, after=after))
    newest = checkpoints.latest()
    assert newest is not None
    assert newest.step == 6 * (1 if after == 160 else 3)
    resumed, resumed_loss = fit(stage, scenes, InlineContext(checkpoints=checkpoints))
    assert digest(resumed.state_dict()) == digest(straight.state_dict())
    assert resumed_loss == loss


def test_a_training_whose_loss_does_not_stay_finite_is_ended_with_a_remedy_and_not_saved(scenes: np.ndarray) -> None:
    checkpoints = MemoryCheckpoints()
    wild = STAGE.model_copy(update={"learning_rate": 1e38, "checkpoint_images": 16})
    with pytest.raises(InputError, match=r"at learning_rate 1e\+38\. Lower"):
        fit(wild, scenes, InlineContext(checkpoints=checkpoints))
    newest = checkpoints.latest()
    assert newest is None or newest.step < 3


def test_the_seed_decides_the_training(scenes: np.ndarray) -> None:
    short = STAGE.model_copy(update={"num_images": 48})
    digests = [
        digest(fit(short.model_copy(update={"seed": seed}), scenes, InlineContext())[0].state_dict())
        for seed in (1, 1, 2)
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_how_often_checkpoints_are_saved_changes_nothing(scenes: np.ndarray) -> None:
    short = STAGE.model_copy(update={"num_images": 64})
    often = short.model_copy(update={"checkpoint_images": 1})
    context = InlineContext()
    assert digest(fit(short, scenes, InlineContext())[0].state_dict()) == digest(
        fit(often, scenes, context)[0].state_dict()
    )
    assert [checkpoint.step for checkpoint in context.checkpoints.kept] == [3, 4]


def test_a_checkpoint_is_two_safetensors_files(scenes: np.ndarray) -> None:
    context = InlineContext()
    fit(STAGE, scenes, context)
    files = context.checkpoints.kept[0].files
    assert set(files) == {"model.safetensors", "optimiser.safetensors"}


def test_a_training_keeps_its_network_at_the_shares_that_it_is_given_over_an_interruption(scenes: np.ndarray) -> None:
    stage = STAGE.model_copy(update={"checkpoints": (0.0, 0.25, 0.5)})
    shown = held(stage, scenes)
    trainer = Trainer(stage, shown, "cpu")
    assert trainer.keep_at == {0.0: 0, 0.25: 5, 0.5: 10}
    straight = {0.0: digest(trainer.network.state_dict())}
    for share, step in ((0.25, 5), (0.5, 10)):
        while trainer.step < step:
            trainer.advance()
        straight[share] = digest(trainer.network.state_dict())
    checkpoints = MemoryCheckpoints()
    with pytest.raises(MachineGoneError):
        loop.fit(stage, shown, Failing(checkpoints=checkpoints, after=320))
    newest = checkpoints.latest()
    assert newest is not None
    assert newest.step == 18
    resumed = loop.fit(stage, shown, InlineContext(checkpoints=checkpoints))
    assert {share: digest(resumed.trained(share).state_dict()) for share in stage.checkpoints} == straight
    assert digest(resumed.trained().state_dict()) not in straight.values()


def test_a_checkpoint_of_a_training_is_an_encoder_that_loads(shards: MemoryArtifact) -> None:
    stage = STAGE.model_copy(update={"num_images": 64, "checkpoints": (0.0, 0.5)})
    training = run_stage(stage, {"shards": shards})
    assert [name for name in training.names() if name.startswith("checkpoints/0.5/")] == [
        f"checkpoints/0.5/{name}" for name in (CARD, WEIGHTS)
    ]
    found = {at: run_stage(Checkpoint(at=at), {"training": training}) for at in stage.checkpoints}
    for at, seen in ((0.0, 0), (0.5, 32)):
        assert found[at].names() == [CARD, WEIGHTS]
        about = parse_card(found[at].objects[CARD])
        assert (about.training["images_seen"], about.training["num_images"]) == (seen, 64)
        assert about.taps == training.summary["taps"] == found[at].summary["taps"]
        assert load(Pretrained(), {"encoder": found[at]}, "cpu").weights_sha256 == about.weights_sha256
    weights = {artifact.summary["weights_sha256"] for artifact in (training, *found.values())}
    assert len(weights) == 3


def test_checkpoints_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="expected checkpoints that rise"):
        Pretrain(checkpoints=(0.5, 0.1))


def test_an_attempt_after_the_last_step_takes_none_and_has_the_same_network(
    scenes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = MemoryCheckpoints()
    first, loss = fit(STAGE, scenes, InlineContext(checkpoints=checkpoints))
    monkeypatch.delattr(Trainer, "advance")
    second, again = fit(STAGE, scenes, InlineContext(checkpoints=checkpoints))
    assert digest(second.state_dict()) == digest(first.state_dict())
    assert again == loss


def test_progress_is_reported_to_the_end(scenes: np.ndarray) -> None:
    context = InlineContext()
    fit(STAGE, scenes, context)
    assert [(done, total) for done, total, _ in context.reports] == [(160, 320), (320, 320)]
    assert all(np.isfinite(metrics["loss"]) for _, _, metrics in context.reports)


class Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often a tensor is asked for its number, for which a GPU would be waited for."""

    asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_asks_for_no_number(scenes: np.ndarray, method: str) -> None:
    stage = STAGE.model_copy(update={"method": method})
    trainer = Trainer(stage, held(stage, scenes), "cpu")
    with Numbers() as numbers:  # type: ignore[no-untyped-call]
        loss = trainer.advance()
    assert numbers.asked == 0
    assert np.isfinite(float(loss))


@pytest.mark.usefixtures("fast_in_bfloat16")
@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("bfloat16", True)])
def test_convolutions_of_a_gpu_are_float32_both_ways_in_float32(
    scenes: np.ndarray, precision: str, rounded: bool
) -> None:
    stage, seen = STAGE.model_copy(update={"precision": precision}), list[bool]()
    trainer = Trainer(stage, held(stage, scenes), "cpu")
    last = [module for module in trainer.network.modules() if isinstance(module, torch.nn.Conv2d)][-1]

    def ran(*_: object) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)

    last.register_forward_hook(ran)
    last.register_full_backward_hook(ran)
    trainer.advance()
    assert seen == [rounded] * 2


def test_images_that_are_prefetched_train_the_same_network(scenes: np.ndarray) -> None:
    digests = []
    for depth in (0, 2):
        trainer = Trainer(STAGE, held(STAGE, scenes), "cpu")
        trainer.batches = Prefetch(trainer.read, trainer.steps, depth)
        with closing(trainer):
            for _ in range(trainer.steps):
                trainer.advance()
        digests.append(digest(trainer.network.state_dict()))
    assert digests[0] == digests[1]


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    series = [learning_rate(1.0, step, 200) for step in range(200)]
    assert series[9] == series[10] == 1.0
    assert series[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert series[105] == pytest.approx(0.5)
    assert 0 < series[-1] < 1e-3


def test_the_two_views_of_an_image_differ_and_neither_repeats_in_the_next_epoch(scenes: np.ndarray) -> None:
    trainer = Trainer(STAGE, held(STAGE, scenes), "cpu")
    views = trainer.views(0)
    assert views.shape == (32, 3, 32, 32)
    assert views.is_contiguous(memory_format=torch.channels_last)
    first, second = views.chunk(2)
    assert (first - second).abs().amax((1, 2, 3)).min() > 0.05
    torch.testing.assert_close(views, trainer.views(0), rtol=0, atol=0)
    assert (views - trainer.views(1)).abs().max() > 0.5


def test_too_few_images_and_an_impossible_projector_are_refused(scenes: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"one batch of 16 train images; found 10.*smaller batch"):
        fit(STAGE, scenes[:10], InlineContext())
    wide = STAGE.model_copy(update={"architecture": SMALL.model_copy(update={"projector": (16, 12, 8)})})
    with pytest.raises(InputError, match=r"equally wide"):
        fit(wide, scenes, InlineContext())


def test_the_stage_writes_an_encoder_that_loads_and_says_how_it_was_made(shards: MemoryArtifact) -> None:
    artifact = run_stage(STAGE, {"shards": shards})
    assert artifact.names() == [CARD, WEIGHTS]
    card = parse_card(artifact.objects[CARD])
    assert card.method == "simclr"
    assert card.taps == {"backbone": 16, "projector.0": 16, "projector": 8}
    assert card.augmentations == Augmentations()
    assert card.training["num_images"] == 320
    assert card.training["final_loss"] == artifact.summary["loss"]
    encoder = load(Pretrained(), {"encoder": artifact}, "cpu")
    assert isinstance(encoder, NetworkEncoder)
    assert encoder.weights_sha256 == artifact.summary["weights_sha256"]
    # shape and pattern, at three taps each.
    assert len(card.quality) == len(artifact.summary["quality"]) == 6
    assert {entry.attribute for entry in card.quality} == {"shape", "pattern"}
    held = sum(card.training["train_images"] + entry.n == 150 for entry in card.quality)  # type: ignore[operator]
    assert held == 6
    assert all(0 <= entry.knn <= 1 and 0 <= entry.linear <= 1 for entry in card.quality)


def test_training_sees_train_images_only(shards: MemoryArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    real = loop.fit

    def watched(stage: Pretrain, images: TrainSet, context: InlineContext) -> object:
        seen.append(images.read(np.arange(images.count)))
        return real(stage, images, context)

    monkeypatch.setattr(run, "fit", watched)
    run_stage(STAGE.model_copy(update={"num_images": 16}), {"shards": shards})
    images = open_images(shards)
    train = np.flatnonzero(np.array(images.table().column("split").to_pylist()) == "train")
    np.testing.assert_array_equal(seen[0], images.decode(train, 32))


def test_rows_without_an_image_are_left_out_on_disk_too() -> None:
    encoded = [encode_png(np.full((4, 4, 3), row, dtype=np.uint8)) for row in range(8)]
    artifact = tar_artifact(encoded, part_rows=4, ending="png")
    index = pq.read_table(io.BytesIO(artifact.objects[INDEX]))
    offsets = [offset if row in (0, 1, 3) else -1 for row, offset in enumerate(index.column("offset").to_pylist())]
    sink = io.BytesIO()
    pq.write_table(index.set_column(index.schema.get_field_index("offset"), "offset", [offsets]), sink)
    artifact.objects[INDEX] = sink.getvalue()
    pictures = run.write_rows(artifact, Preprocessing(size=4), 0, 1)
    assert pictures.read(np.array([3, 0, 1]))[:, 0, 0, 0].tolist() == [3, 0, 1]


def test_quality_is_taken_over_a_bounded_number_of_images(
    shards: MemoryArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FITTED", 50)
    monkeypatch.setattr(run, "SCORED", 20)
    artifact = run_stage(STAGE.model_copy(update={"num_images": 16}), {"shards": shards})
    assert {entry["n"] for entry in artifact.summary["quality"]} == {20}


def test_knn_takes_the_majority_and_the_linear_probe_a_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.tensor([[5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 5.0, 0]])
    table = centres[labels] + torch.randn(300, 4, generator=generator)
    for predict in (knn, linear):
        assert (predict(table[60:], labels[60:], table[:60], 3) == labels[:60]).float().mean() > 0.98
        shuffled = labels[60:][torch.randperm(240, generator=generator)]
        assert (predict(table[60:], shuffled, table[:60], 3) == labels[:60]).float().mean() < 0.6


def test_quality_is_of_known_class_attributes_on_held_out_rows() -> None:
    labels = np.tile([0.0, 1.0], 50)
    labels[90:] = np.nan
    known = [Attribute(name="kind", kind="class", classes=("a", "b")), Attribute(name="x", kind="scalar")]
    train = np.arange(100) < 60
    table = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    table[:, 0] += torch.from_numpy(np.nan_to_num(labels)).float() * 20
    found = score({"tap": table}, known, {"kind": labels, "x": labels}, train)
    assert [(q.attribute, q.tap, q.n, q.chance) for q in found] == [("kind", "tap", 30, 0.5)]
    assert found[0].linear == 1.0
    assert score({"tap": table}, known, {"kind": np.full(100, np.nan), "x": labels}, train) == ()


def test_an_estimate_grows_with_the_training() -> None:
    upstream = {"shards": Estimate(rows=1, size_bytes=1, cpu_seconds=1)}
    short, long = (Pretrain(num_images=n).estimate(upstream) for n in (10_000, 20_000))
    small = Pretrain(num_images=10_000, architecture=SMALL).estimate(upstream)
    assert long.cpu_seconds > short.cpu_seconds > small.cpu_seconds > 0
    assert short.size_bytes == long.size_bytes > small.size_bytes > 0
