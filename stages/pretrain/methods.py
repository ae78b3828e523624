"""The methods: what stands on top of the backbone, and the loss of the two views of a batch.

Losses and heads are lightly's. All methods have the same backbone, a projector of the widths that the architecture
names, and see two views of every image, so that what differs between two encoders is what they were asked to do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from lightly.models.modules.heads import SimCLRProjectionHead, VICRegProjectionHead
from torch import Tensor, nn

from stages.errors import InputError

if TYPE_CHECKING:
    from stages.pretrain.stage import Pretrain


@dataclass(frozen=True)
class Method:
    """What a method puts on a backbone. `loss(first, second)` for views [B, D] at the end of the projector."""

    projector: nn.Sequential
    loss: nn.Module
    """Scalar of two float32 [B, D]; a supervised one takes labels int64 [B] as well, and has weights of its own."""
    projector_norm: bool
    """Whether BatchNorm follows the last layer of the projector."""


def build(stage: "Pretrain", classes: int | None) -> Method:
    """The method of a stage, its weights drawn with the stage's seed; `classes` is the number of them, if any.

    Raises InputError for a projector that lightly's heads cannot have.
    """
    widths = stage.architecture.projector
    if len(widths) < 2 or len(set(widths[:-1])) > 1:
        raise InputError(
            expected="a projector of two or more layers whose hidden layers are equally wide",
            found=f"widths {list(widths)}",
            remedy="Write, for example, projector: [256, 128].",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return METHODS[stage.method](stage, classes)


def simclr(stage: "Pretrain", classes: int | None) -> Method:
    """Chen et al. 2020 (arXiv 2002.05709): views of one image attract, those of all others in the batch repel."""
    return Method(_normalised(stage), NTXentLoss(temperature=stage.temperature), projector_norm=True)


def vicreg(stage: "Pretrain", classes: int | None) -> Method:
    """Bardes et al. 2022 (arXiv 2105.04906): views agree, every output varies, no two outputs vary together."""
    return Method(
        _expander(stage), VICRegLoss(stage.invariance, stage.variance, stage.covariance), projector_norm=False
    )


def barlow(stage: "Pretrain", classes: int | None) -> Method:
    """Barlow Twins, Zbontar et al. 2021 (arXiv 2103.03230): the correlation of the outputs of two views is diagonal."""
    return Method(_expander(stage), BarlowTwinsLoss(stage.redundancy), projector_norm=False)


def supervised(stage: "Pretrain", classes: int | None) -> Method:
    """Cross-entropy of the class of both views, read by a linear layer at the end of the same projector as SimCLR's.

    With the projector, because how far a layer stands from the loss changes what it keeps by itself (Bordes et al.
    2022, arXiv 2206.13378): without it, a comparison with SimCLR's backbone would be of two things at once.
    """
    assert classes is not None, "labels come with the number of classes"
    return Method(_normalised(stage), Classification(stage.architecture.projector[-1], classes), projector_norm=True)


METHODS: Mapping[str, Callable[["Pretrain", int | None], Method]] = {
    "simclr": simclr,
    "vicreg": vicreg,
    "barlow": barlow,
    "supervised": supervised,
}


class Classification(nn.Module):
    """A linear classifier and its mean cross-entropy over both views."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, classes)

    def forward(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """Two float32 [B, D] and labels int64 [B] to a scalar."""
        return nn.functional.cross_entropy(self.classifier(torch.cat([first, second])), labels.repeat(2))


def _normalised(stage: "Pretrain") -> nn.Sequential:
    """SimCLR's head: BatchNorm after every layer."""
    widths = stage.architecture.projector
    head = SimCLRProjectionHead(stage.architecture.widths[-1], widths[0], widths[-1], num_layers=len(widths))
    return nn.Sequential(*head.layers)


def _expander(stage: "Pretrain") -> nn.Sequential:
    """The head of VICReg and of Barlow Twins: no BatchNorm after the last layer."""
    widths = stage.architecture.projector
    head = VICRegProjectionHead(stage.architecture.widths[-1], widths[0], widths[-1], num_layers=len(widths))
    # Neither loss sees a shift of the outputs, so a bias would drift by rounding alone; the authors' code has none.
    head.layers[-1].bias = None
    return nn.Sequential(*head.layers)
