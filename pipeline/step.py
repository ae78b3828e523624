"""A step: a stage wired into a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.contract import Stage


@dataclass(frozen=True)
class Step:
    """A stage, the name a study gives it, and the steps whose artifacts it reads (input name -> step name)."""

    name: str
    stage: Stage
    inputs: Mapping[str, str] = field(default_factory=dict)
