"""`network.json`, the card of an imported encoder: where it comes from, how it sees images, which taps it has."""

from typing import Any, Literal

from pydantic import Field

from stages.contract import Settings
from stages.encoders.augment import Augmentations
from stages.encoders.format import parsed
from stages.encoders.sources.settings import Tap
from stages.encoders.spec import Preprocessing

FORMAT = 1
CARD = "network.json"


class ImportedCard(Settings):
    """`network.json`."""

    format: int = FORMAT
    source: dict[str, Any]
    """The source, as the study gives it."""
    recipe: dict[str, Any]
    """What builds the network again, without its weights."""
    own_taps: tuple[str, ...]
    named_taps: dict[str, Tap]
    taps: dict[str, int]
    """Name -> width, in the order of the table."""
    preprocessing: Preprocessing
    precision: Literal["float32", "bfloat16"]
    augmentations: Augmentations | None
    weights_sha256: str
    """Over names, shapes and bytes of all weights (see `stages.encoders.format.digest`)."""
    files: dict[str, str]
    """sha256 of each file that was read, by name; of weights from a hub their commit."""
    unused: tuple[str, ...]
    """Names in the file that the network lacks."""
    zeroed: tuple[str, ...]
    """Names that the file lacks and no tap depends on: they are zero."""
    pieces: int
    """Number of files of weights."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of Python and the libraries that imported it."""


def parse_card(data: bytes) -> ImportedCard:
    """`network.json` from its bytes; raises FormatError where its format is unknown or a field is wrong."""
    return parsed(ImportedCard, data, CARD, FORMAT)
