"""The loop of every training: steps, and every so often their losses, a report and a checkpoint."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from stages.contract import Checkpoint, Context
from stages.training.ranks import newest_checkpoint

if TYPE_CHECKING:
    from torch import Tensor


class Steps(Protocol):
    """A training, step by step."""

    step: int
    """Number of steps taken."""

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""

    def advance(self) -> "Tensor":
        """Takes a step; returns its loss, [] on the device."""

    def collect(self, losses: "Sequence[Tensor]") -> None:
        """Takes in the losses of the last steps. All ranks call it together. InputError where one is not finite."""

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""


def train(
    training: Steps,
    context: Context,
    *,
    report_every: int,
    save_every: int,
    last_save: int,
    progress: Callable[[], tuple[int, int, Mapping[str, float]]],
    collect_at: Collection[int] = (),
) -> None:
    """Takes all steps, from the newest checkpoint of `context` on, and saves one at the end.

    All numbers are in steps. Losses are also collected at the steps `collect_at`; checkpoints are saved up to the step
    `last_save`, and after the last step. `progress` gives images seen, images in all, and the metrics to report.
    Raises RaceError where ranks see different checkpoints, and what `collect` raises: such a state is not saved.
    """
    if (checkpoint := newest_checkpoint(context)) is not None:
        training.restore(checkpoint)
        if training.step == training.steps:
            return
    losses: list[Tensor] = []
    while training.step < training.steps:
        losses.append(training.advance())
        reporting = training.step % report_every == 0 or training.step == training.steps
        saving = training.step % save_every == 0 and training.step <= last_save
        if reporting or saving or training.step in collect_at:
            # Not after every step: reading a number from a GPU waits for all the work that it has queued.
            training.collect(losses)
            losses.clear()
        if reporting:
            context.report(*progress())
        if saving and context.rank == 0:
            context.checkpoints.save(training.step, training.state())
    if context.rank == 0:
        # Files of two trainings must not be mixed: an attempt that writes them a second time starts from here.
        context.checkpoints.save(training.step, training.state())
