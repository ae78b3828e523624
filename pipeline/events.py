"""What happens in a run, as small records: shown to a person while it runs and kept in `runs/<run id>/events/`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened. `kind` is one of `KINDS`; `time` in seconds since 1970; `fields` depend on the kind."""

    kind: str
    step: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)
