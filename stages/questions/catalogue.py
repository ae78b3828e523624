"""Every question, in the order of the page. A new one is an import and a line of `QUESTIONS`.

Only `pipeline` and the report import this module: were it imported by an answer, a new question would change the code
digest of every answer. It imports no `section.py`, which need numpy; the report imports those by name (`section_of`).
"""

from stages.questions.dynamics.stage import Dynamics
from stages.questions.edits.stage import Edits
from stages.questions.faithfulness.stage import Faithfulness
from stages.questions.fidelity.stage import Fidelity
from stages.questions.health.stage import Health
from stages.questions.invariance.stage import Invariance
from stages.questions.inversion.stage import Inversion
from stages.questions.kept.stage import Kept
from stages.questions.layers.stage import Layers
from stages.questions.memorisation.stage import Memorisation
from stages.questions.question import Question
from stages.questions.robustness.stage import Robustness
from stages.questions.shift.stage import Shift
from stages.questions.versus.stage import Versus

QUESTIONS: tuple[type[Question], ...] = (
    Kept,
    Faithfulness,
    Fidelity,
    Invariance,
    Robustness,
    Edits,
    Layers,
    Dynamics,
    Versus,
    Inversion,
    Shift,
    Health,
    Memorisation,
)


def section_of(question: type[Question]) -> str:
    """Name of the module that arranges what the page shows of a question: `section`, beside its `stage`."""
    return f"{question.__module__.rpartition('.')[0]}.section"
