"""The scalars of a run's trainings as files for TensorBoard, made from the run's events whenever somebody asks.

Stages write none: their files would be no part of an artifact, and events are kept anyway.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.events import PROGRESS, Event

SUFFIX = ".repscope"
"""Ending of our files: those of an earlier export are replaced, others are left alone."""


def export(events: Sequence[Event], folder: Path) -> list[str]:
    """Writes the progress among the events to `folder/<step>` and returns the steps.

    Across are a training's own units (images), and what an attempt repeated stands once.
    """
    from tensorboardX import SummaryWriter

    trainings: dict[str, list[Event]] = {}
    for event in events:
        if event.kind == PROGRESS:
            reports = trainings.setdefault(event.step, [])
            # A later attempt goes on from a checkpoint: what came after that is reported again.
            while reports and reports[-1].fields["done"] >= event.fields["done"]:
                reports.pop()
            reports.append(event)
    for step, reports in trainings.items():
        for old in (folder / step).glob(f"events.out.tfevents.*{SUFFIX}"):
            old.unlink()
        with SummaryWriter(str(folder / step), filename_suffix=SUFFIX) as writer:
            for event in reports:
                for name, value in event.fields["metrics"].items():
                    writer.add_scalar(name, value, event.fields["done"], walltime=event.time)
    return list(trainings)
