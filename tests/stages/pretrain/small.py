"""A small training for the tests of pretraining."""

import numpy as np
import torch

from stages.encoders.network import EncoderNetwork
from stages.encoders.spec import Architecture
from stages.pretrain import loop
from stages.pretrain.loop import TrainLabels, TrainSet
from stages.pretrain.stage import Pretrain
from tests.artifacts import InlineContext

SMALL = Architecture(widths=(8, 16), blocks=(1, 1), projector=(16, 8))
STAGE = Pretrain(architecture=SMALL, seed=7, num_images=320, batch=16, checkpoint_images=96)
METHODS = ("simclr", "vicreg", "barlow", "supervised")


def held(stage: Pretrain, images: np.ndarray) -> TrainSet:
    """Images uint8 [N, S, S, 3] as a train set; labels, where there are any, say whether one is brighter than most."""
    if stage.method != "supervised":
        return TrainSet(len(images), lambda numbers: images[numbers])
    brightness = images.mean((1, 2, 3))
    values = torch.from_numpy((brightness > np.median(brightness)).astype(np.int64))
    return TrainSet(len(images), lambda numbers: images[numbers], TrainLabels(values, 2))


def fit(stage: Pretrain, images: np.ndarray, context: InlineContext) -> tuple[EncoderNetwork, float]:
    """The trained network and its loss at the end."""
    torch.set_num_threads(1)
    trainer = loop.fit(stage, held(stage, images), context)
    return trainer.trained(), trainer.final_loss
