"""Trains a network by any of the methods: two augmented views of each image, one loop.

The images of step k are a function of (seed, k), a view's transform of (seed, number of the view): an interrupted
training goes on unchanged, and any number of ranks trains the same network, each on its share of every batch.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from stages.contract import Checkpoint, Context
from stages.encoders import augment
from stages.encoders.network import EncoderNetwork, initialise
from stages.errors import InputError
from stages.pretrain import methods
from stages.pretrain.ranks import gathered, sum_gradients, synchronise
from stages.training.loop import train
from stages.training.precision import agreed, arithmetic, computed, unrounded
from stages.training.prefetch import Prefetch, sent
from stages.training.shuffle import order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.pretrain.stage import Pretrain

WARM_UP = 0.05
REPORT_EVERY = 10
"""Steps between two reports."""
PREFETCHED = 2
"""Steps whose images are read while a GPU is busy."""
LOSS = "loss."
"""Prefix of the weights in a checkpoint that belong to the loss and not to the network."""
KEPT = "kept-{}.safetensors"
"""File of a checkpoint: the network as it was after so many steps."""
FINAL_LOSS = "loss.json"
"""File of the last checkpoint: the mean loss of the last steps."""


@dataclass(frozen=True)
class TrainLabels:
    """The class of each train image."""

    values: Tensor
    """int64 [N], below `classes`."""
    classes: int


@dataclass(frozen=True)
class TrainSet:
    """The images that are trained on, and their classes where the method learns them."""

    count: int
    read: "Callable[[NDArray[np.int64]], NDArray[np.uint8]]"
    """Indices int64 [B] below `count`, in any order, to uint8 [B, S, S, 3]."""
    labels: TrainLabels | None = None
    """None: the method has no use for them and does not get them."""


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warm-up to `peak`, then half a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Trainer:
    """Network, loss and optimiser of one training, on one of `world` ranks, and the step that it has reached."""

    def __init__(self, stage: "Pretrain", images: TrainSet, device: str, rank: int = 0, world: int = 1) -> None:
        self.stage, self.images, self.device, self.rank, self.world = stage, images, device, rank, world
        self.precision = computed(stage.precision, device)
        method = methods.build(stage, None if images.labels is None else images.labels.classes)
        self.network: EncoderNetwork = initialise(stage.architecture, stage.seed)
        self.network.projector = method.projector
        self.loss = method.loss
        self.projector_norm = method.projector_norm
        if world > 1:
            synchronise(self.network)
        self.network.to(device).train()
        self.loss.to(device)
        self.parameters = [*self.network.parameters(), *self.loss.parameters()]
        decayed = [p for p in self.parameters if p.ndim > 1]
        plain = [p for p in self.parameters if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=stage.learning_rate,
            fused=True,
        )
        self.step, self.steps = 0, max(1, round(stage.num_images / stage.batch))
        self.tail = max(1, self.steps // 20)
        """Steps at the end whose mean loss is that of the training."""
        self.losses: list[float] = []
        """Of the steps since the training was started or restored."""
        self.keep_at = {share: max(1, round(share * self.steps)) if share else 0 for share in stage.checkpoints}
        """Steps after which the network is kept, by share of the training."""
        self.kept: dict[int, dict[str, Tensor]] = {}
        """The network as it was after these steps."""
        self._keep()
        self.on_gpu = torch.device(device).type == "cuda"
        self.batches = Prefetch(self.read, self.steps, PREFETCHED if self.on_gpu else 0)

    def close(self) -> None:
        """Ends the threads that read images."""
        self.batches.close()

    def chosen(self, step: int) -> "NDArray[np.int64]":
        """Indices of the images of a step, of all ranks: int64 [B]."""
        numbers = np.arange(step * self.stage.batch, (step + 1) * self.stage.batch)
        return order(self.stage.seed, self.images.count, numbers)

    def read(self, step: int) -> Tensor:
        """This rank's images of a step, uint8 [B, S, S, 3], in memory that a GPU reads by itself."""
        found = torch.from_numpy(self.images.read(np.array_split(self.chosen(step), self.world)[self.rank]))
        return found.pin_memory() if self.on_gpu else found

    def views(self, step: int) -> Tensor:
        """Normalised views float32 [2 B, 3, H, W] of this rank's images: view 0 of every image, then view 1."""
        stage = self.stage
        numbers = np.arange(step * stage.batch, (step + 1) * stage.batch)
        mine = np.array_split(numbers, self.world)[self.rank]
        # Channel by channel in memory, which the transforms are fastest with.
        images = sent(self.batches.take(step), self.device).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
        views = torch.cat(
            [augment.apply(images, augment.draw(stage.augmentations, stage.seed, 2 * mine + view)) for view in range(2)]
        )
        normalised = stage.preprocessing.normalise(views)
        return normalised.contiguous(memory_format=torch.channels_last)

    def advance(self) -> Tensor:
        """One optimiser step; returns the loss of the whole batch, [] on the device."""
        step = self.step
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.stage.learning_rate, step, self.steps)
        views = self.views(step)
        with arithmetic(self.precision, self.device):
            projected = self.network(views)["projector"]
        both = projected.to(views.dtype).chunk(2)
        if self.world > 1:
            sizes = [len(part) for part in np.array_split(np.empty(self.stage.batch), self.world)]
            both = tuple(gathered(view, sizes) for view in both)
        classes: tuple[Tensor, ...] = ()
        if self.images.labels is not None:
            classes = (sent(self.images.labels.values[torch.from_numpy(self.chosen(step))], self.device),)
        loss = self.loss(*both, *classes)
        self.optimiser.zero_grad()
        with unrounded(self.precision):
            (loss / self.world).backward()
        if self.world > 1:
            sum_gradients(self.parameters)
        self.optimiser.step()
        self.step += 1
        self._keep()
        return loss.detach()  # type: ignore[no-any-return]

    def _keep(self) -> None:
        if self.step in self.keep_at.values():
            self.kept[self.step] = {name: value.cpu().clone() for name, value in self.network.state_dict().items()}

    def collect(self, losses: Sequence[Tensor]) -> None:
        """Takes in the losses of the last steps; InputError where one is not finite.

        They are those of whole batches, so that all ranks end here together.
        """
        self.losses += torch.stack(list(losses)).tolist()
        if not math.isfinite(self.recent_loss):
            raise InputError(
                expected="a loss that stays finite",
                found=f"{self.recent_loss} after {self.step * self.stage.batch} images, "
                f"at learning_rate {self.stage.learning_rate:g}",
                remedy="Lower the encoder's learning_rate.",
            )

    @property
    def recent_loss(self) -> float:
        """Mean loss since about the last report."""
        return float(np.mean(self.losses[-REPORT_EVERY:]))

    @property
    def final_loss(self) -> float:
        """Mean loss of the last 5 % of steps, at the end."""
        return float(np.mean(self.losses[-self.tail :]))

    def progress(self) -> tuple[int, int, Mapping[str, float]]:
        """Images seen, images in all, and metrics."""
        return self.step * self.stage.batch, self.steps * self.stage.batch, {"loss": self.recent_loss}

    def trained(self, share: float | None = None) -> EncoderNetwork:
        """The network in evaluation mode, as it would be had one rank trained it; as it was after one of the shares of
        the training that are kept, or at the end."""
        network = EncoderNetwork(self.stage.architecture, self.projector_norm).to(self.device)
        network.load_state_dict(self.network.state_dict() if share is None else self.kept[self.keep_at[share]])
        return network.to(memory_format=torch.channels_last).eval()

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint."""
        moments = {
            f"{number}.{name}": value.contiguous()
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        own = {LOSS + name: value.detach() for name, value in self.loss.named_parameters()}
        held = {name: value.contiguous() for name, value in (self.network.state_dict() | own).items()}
        files = {"model.safetensors": save(held), "optimiser.safetensors": save(moments)}
        for step, weights in self.kept.items():
            files[KEPT.format(step)] = save({name: value.contiguous() for name, value in weights.items()})
        return files | ({FINAL_LOSS: json.dumps(self.final_loss).encode()} if self.step == self.steps else {})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""
        self.step = checkpoint.step
        # None is saved within the tail but the last, so that its mean loss is the same after any interruption.
        self.losses = [json.loads(checkpoint.read(FINAL_LOSS))] if self.step == self.steps else []
        weights = load(checkpoint.read("model.safetensors"))
        with torch.no_grad():
            for name, parameter in self.loss.named_parameters():
                parameter.copy_(weights[LOSS + name])
        self.network.load_state_dict({name: value for name, value in weights.items() if not name.startswith(LOSS)})
        # An interrupted attempt's files are lost, so what is kept travels in the checkpoints.
        self.kept = {
            step: load(checkpoint.read(KEPT.format(step))) for step in set(self.keep_at.values()) if step <= self.step
        }
        ordered = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in load(checkpoint.read("optimiser.safetensors")).items():
            number, _, what = name.partition(".")
            # The fused optimiser goes through a weight and its moments in the order of memory, so layouts must agree.
            like = ordered[int(number)]
            moments.setdefault(int(number), {})[what] = torch.empty_like(like).copy_(value) if value.ndim else value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def fit(stage: "Pretrain", images: TrainSet, context: Context) -> Trainer:
    """Trains to the end, from the newest checkpoint of `context` where there is one.

    Raises InputError where there are fewer images than a batch, or fewer in a batch than ranks, or the loss does not
    stay finite (no such state is saved), and RaceError where ranks see different checkpoints.
    """
    if images.count < stage.batch:
        raise InputError(
            expected=f"at least one batch of {stage.batch} train images",
            found=f"{images.count}",
            remedy="Set a smaller batch for the encoder, or give more images.",
        )
    if stage.batch < context.world:
        raise InputError(
            expected=f"an image of every batch for each of {context.world} ranks",
            found=f"a batch of {stage.batch}",
            remedy="Use fewer ranks, or a larger batch.",
        )
    trainer = Trainer(stage, images, context.device, context.rank, context.world)
    trainer.precision = agreed(stage.precision, context.device, context.world)
    with closing(trainer):
        train(
            trainer,
            context,
            report_every=REPORT_EVERY,
            save_every=max(1, round(stage.checkpoint_images / stage.batch)),
            last_save=trainer.steps - trainer.tail,
            progress=trainer.progress,
        )
    return trainer
