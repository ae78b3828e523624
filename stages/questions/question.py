"""What a question declares of itself: what is painted for it, and which inputs its answer reads.

A question is a folder: `stage.py` (a `Question`), `answer.py` (the work), `section.py` (what the page shows) and, where
the section has a template, `section.html`. `stages.questions.catalogue` lists all questions.
"""

from dataclasses import dataclass
from typing import ClassVar

from stages.contract import Stage

CONDITIONS, SAMPLES = "conditions", "samples"
"""Inputs of every answer, for each tap group."""
SAMPLE_EMBEDDINGS = "sample_embeddings"
"""Input, for each tap group and encoder: the samples, embedded by that encoder."""
HALFWAY = "halfway_samples"
"""Input, for each tap group: the same conditions, painted with the decoder's weights at half of its training."""
SEEDS = "seed_samples"
"""Inputs, `seed_samples.1` …: the same conditions, painted by decoders that were trained from other seeds."""
ASKED = "asked"
"""Inputs `asked.<ask>`, for each tap group: the conditions of another question's ask."""
READERS, PROBES = "readers", "probes"
ENCODERS = "encoder"
"""Inputs `encoder.<encoder>`: the encoders whose embeddings are read, where they are steps of their own."""


class AskStage(Stage):
    """A stage that writes conditions. Its `name` is also the name of its settings in a study."""

    taps: tuple[str, ...] = ()
    """What is asked about, as `encoder:tap`; a study fills in the taps of its decoder."""


@dataclass(frozen=True)
class Ask:
    """What is painted: the conditions of a stage, sampled for each tap group.

    Its steps are called `ask.<name>` and `samples.<name>`. Questions that declare the same ask share all of its steps.
    """

    name: str
    stage: type[AskStage]
    halfway: str = ""
    """Answers may read `HALFWAY`; the steps that paint it are called `samples.<halfway>`."""
    pixels_only: bool = False
    """Extensions of which no tap reads pixels are not asked about."""
    networks_only: bool = False
    """Extensions of which no tap is a network's are not asked about."""


class Question(Stage):
    """The stage of an answer. It reads `shards`, the embeddings of all images and, with an ask, `CONDITIONS` and
    `SAMPLES`."""

    ask: ClassVar[Ask | None] = None
    """What is painted for it. None: nothing, so the question needs no decoder."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Further inputs: any of READERS, PROBES and ENCODERS and, with an ask, of SAMPLE_EMBEDDINGS, HALFWAY and SEEDS."""
    reads_asks: ClassVar[tuple[Ask, ...]] = ()
    """Asks of other questions, by their study's settings. Where the study asks one of those, its conditions are inputs
    too, `ASKED`."""
    by_default: ClassVar[bool] = False
    """Whether a study that lists no questions asks it."""

    def ask_settings(self) -> AskStage | None:
        """The stage of the ask, where the question sets it itself. None: the study's field of its name has it."""
        return None

    def reference_taps(self) -> tuple[str, ...]:
        """Taps of encoders not under study, as `encoder:tap`, by which images are read.

        The answer gets for each its table, `reference.<encoder>`, and the encoder itself where that is a step.
        """
        return ()
