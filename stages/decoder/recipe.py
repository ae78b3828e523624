"""How a decoder is trained: the settings of a study, and what differs between the three steps that train one."""

from dataclasses import dataclass
from typing import Literal

from stages.decoder.spec import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    """The defaults are those of the `decoder` step."""

    settings: TrainingSettings
    num_images: int
    """Images shown to the diffusion model."""
    seed: int
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    ema_decay: float | None = None
    """Decay of a moving average of constant length; None: the average of `settings.ema`, which grows with training."""
    evaluations: int = 8
    """Number of times that the held-out loss is evaluated."""
    measured: Literal["taps and null", "taps", ""] = "taps and null"
    """Of what the standard deviation of the residual is measured; of all else the network keeps the one that it has."""
    prefix: str = "training."
    """What a study writes before the names of the settings."""
