"""SimCLR: two augmented views of each image, pulled together and away from the other images of the batch.

Chen et al. 2020 (arXiv 2002.05709), with lightly's NT-Xent loss and projection head. The images of step k are a
function of (seed, k), a view's transform of (seed, number of the view): an interrupted training goes on unchanged.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from safetensors.torch import load, save
from torch import Tensor

from stages import attributes, made
from stages.contract import Checkpoint, Context, Input, Inputs, Output, Summary
from stages.encoders import augment, format
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.network import Network, initialise
from stages.errors import InputError
from stages.images import open_images
from stages.pixels import normalise
from stages.pretrain.quality import score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.pretrain.stage import Pretrain

WARM_UP = 0.05
RECORDED = {"seed", "num_images", "batch", "learning_rate", "weight_decay", "temperature", "precision"}


def rows(seed: int, count: int, start: int, length: int) -> "NDArray[np.int64]":
    """Rows shown at positions start … start + length - 1 of an endless series of shuffled epochs of `count` rows."""
    found = []
    while length > 0:
        epoch, offset = divmod(start, count)
        order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
        found.append(order[offset : offset + length])
        start, length = start + len(found[-1]), length - len(found[-1])
    return np.concatenate(found)


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass
class Trainer:
    """Network and optimiser of one training, and the step it has reached."""

    stage: "Pretrain"
    images: Tensor
    """uint8 [N, 3, H, W], channels last."""
    device: str

    def __post_init__(self) -> None:
        """Builds the network at its initial weights."""
        stage = self.stage
        self.network: Network = initialise(stage.architecture, stage.seed)
        self.network.projector = projector(stage).layers
        self.network.to(self.device).train()
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=stage.learning_rate,
        )
        self.loss = NTXentLoss(temperature=stage.temperature)
        self.steps = max(1, round(stage.num_images / stage.batch))

    def views(self, step: int) -> Tensor:
        """Normalised views float32 [2 B, 3, H, W] of step `step`: view 0 of every image, then view 1."""
        stage, batch = self.stage, self.stage.batch
        chosen = rows(stage.seed, len(self.images), step * batch, batch)
        images = self.images[torch.from_numpy(chosen)].to(self.device).float().div_(255.0)
        numbers = np.arange(step * batch, (step + 1) * batch)
        shown = torch.cat(
            [
                augment.apply(images, augment.draw(stage.augmentations, stage.seed, 2 * numbers + view))
                for view in range(2)
            ]
        )
        normalised = normalise(shown, stage.preprocessing.mean, stage.preprocessing.std)
        return normalised.contiguous(memory_format=torch.channels_last)

    def advance(self, step: int) -> float:
        """One optimiser step; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.stage.learning_rate, step, self.steps)
        views = self.views(step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.stage.precision == "bfloat16"):
            projected = self.network(views)["projector"]
        first, second = projected.float().chunk(2)
        loss = self.loss(first, second)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint."""
        moments = {
            f"{number}.{name}": value.contiguous()
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        return {"model.safetensors": save(weights), "optimiser.safetensors": save(moments)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""
        self.network.load_state_dict(load(checkpoint.read("model.safetensors")))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in load(checkpoint.read("optimiser.safetensors")).items():
            number, _, what = name.partition(".")
            moments.setdefault(int(number), {})[what] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def projector(stage: "Pretrain") -> SimCLRProjectionHead:
    """lightly's head with the widths of the architecture, its weights drawn with the seed of the stage."""
    widths = stage.architecture.projector
    if len(widths) < 2 or len(set(widths[:-1])) > 1:
        raise InputError(
            expected="a projector of two or more layers whose hidden layers are equally wide",
            found=f"widths {list(widths)}",
            remedy="Write, for example, projector: [256, 128].",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return SimCLRProjectionHead(stage.architecture.widths[-1], widths[0], widths[-1], num_layers=len(widths))


def fit(stage: "Pretrain", images: "NDArray[np.uint8]", context: Context) -> tuple[Network, float]:
    """Trains on uint8 [N, H, W, 3]; returns the network in evaluation mode and the mean loss of the last 5 % of steps.

    Goes on from the newest checkpoint of `context`. Raises InputError where there are fewer images than a batch.
    """
    if len(images) < stage.batch:
        raise InputError(
            expected=f"at least one batch of {stage.batch} train images",
            found=f"{len(images)}",
            remedy="Set a smaller batch for the encoder, or give more images.",
        )
    trainer = Trainer(stage, torch.from_numpy(images).permute(0, 3, 1, 2), context.device)
    every = max(1, round(stage.checkpoint_images / stage.batch))
    start = 0
    if (checkpoint := context.checkpoints.latest()) is not None:
        trainer.restore(checkpoint)
        start = checkpoint.step
    tail = max(1, trainer.steps // 20)
    losses = []
    for step in range(start, trainer.steps):
        losses.append(trainer.advance(step))
        done = step + 1
        if done % 10 == 0 or done == trainer.steps:
            recent = float(np.mean(losses[-10:]))
            context.report(done * stage.batch, trainer.steps * stage.batch, {"loss": recent})
        # None within the tail, so that its mean loss is known however often the training was interrupted.
        if done % every == 0 and done <= trainer.steps - tail:
            context.checkpoints.save(done, trainer.state())
    return trainer.network.eval(), float(np.mean(losses[-tail:]))


def train_rows(shards: Input, size: int) -> tuple["NDArray[np.uint8]", "NDArray[np.int64]", "NDArray[np.int64]"]:
    """All readable images as uint8 [N, size, size, 3], their rows int64 [N], and positions of the train images."""
    images = open_images(shards)
    parts = [images.decode_part(part, size) for part in range(images.parts)]
    found = np.concatenate([rows for rows, _ in parts])
    split = np.array(images.table().column("split").to_pylist())[found]
    return np.concatenate([pixels for _, pixels in parts]), found, np.flatnonzero(split == "train")


def run(stage: "Pretrain", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of input `shards`, scores on the others, writes the encoder's files."""
    shards = inputs["shards"]
    images, found, train = train_rows(shards, stage.preprocessing.size)
    network, loss = fit(stage, images[train], context)
    encoder = NetworkEncoder(network, stage.preprocessing, context.device)
    quality = _quality(encoder, shards, images, found, train)
    card = format.Card(
        method=stage.method,
        architecture=stage.architecture,
        preprocessing=stage.preprocessing,
        taps=encoder.taps,
        augmentations=stage.augmentations,
        training={
            **stage.model_dump(include=RECORDED),
            "train_images": len(train),
            "final_loss": loss,
        },
        quality=quality,
        weights_sha256=encoder.weights_sha256,
        versions=made.versions(),
    )
    probes = encoder.embed(probe_batch(stage.preprocessing.size))
    files = format.dump(network, card, {tap: torch.from_numpy(values) for tap, values in probes.items()})
    stored = {name: out.put(name, data) for name, data in files.items()}
    card = format.parse_card(stored[format.CARD])
    return {
        "taps": card.taps,
        "weights_sha256": card.weights_sha256,
        "versions": card.versions,
        "loss": card.training["final_loss"],
        "quality": [entry.model_dump() for entry in card.quality],
    }


def _quality(
    encoder: NetworkEncoder,
    shards: Input,
    images: "NDArray[np.uint8]",
    found: "NDArray[np.int64]",
    train: "NDArray[np.int64]",
) -> tuple[format.Quality, ...]:
    known = attributes.load(shards.read("attributes.json"))
    table = open_images(shards).table()
    values = {a.name: table.column(attributes.PREFIX + a.name).to_numpy()[found] for a in known if a.kind == "class"}
    batches = [encoder.embed(images[start : start + 512]) for start in range(0, len(images), 512)]
    embeddings = {tap: torch.from_numpy(np.concatenate([batch[tap] for batch in batches])) for tap in encoder.taps}
    return score(embeddings, known, values, np.isin(np.arange(len(images)), train))
