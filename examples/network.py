"""A network of one's own: a torch module that maps normalised images [B, 3, H, W] to vectors, or to a dict of them."""

from torch import Tensor, nn


class Network(nn.Module):
    """Two convolutions, their mean over the image, and a projector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2), nn.ReLU()
        )
        self.projector = nn.Linear(2 * width, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone` [B, 2 x width] and `projection` [B, 16]."""
        backbone = self.features(x).mean((2, 3))
        return {"backbone": backbone, "projection": self.projector(backbone)}


def make(width: int = 16) -> Network:
    """What `factory` in the study names."""
    return Network(width)
