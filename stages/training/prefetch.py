"""What keeps a GPU busy: batches that are made before they are asked for, and tensors sent while it computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """What `make(step)` gives, for steps that follow each other; with `depth`, made by threads that many steps before.

    On a CPU the cores are the network's, and nothing is won by it; a GPU would wait for every batch.
    """

    def __init__(self, make: Callable[[int], Made], last: int, depth: int) -> None:
        self._make, self._last, self._depth = make, last, depth
        self._threads = ThreadPoolExecutor(depth, "batches") if depth else None
        self._coming: dict[int, Future[Made]] = {}

    def take(self, step: int) -> Made:
        """The thing of this step; raises what `make` raised."""
        if self._threads is None:
            return self._make(step)
        wanted = range(step, min(step + self._depth + 1, self._last))
        self._coming = {
            number: self._coming.get(number) or self._threads.submit(self._make, number) for number in wanted
        }
        return self._coming.pop(step).result()

    def close(self) -> None:
        """Ends the threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def sent(tensor: "torch.Tensor", device: "torch.device | str") -> "torch.Tensor":
    """A tensor of this machine's memory on a device; a GPU is not waited for, though it has more to do before."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor.to(device)
