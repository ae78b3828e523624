"""What keeps a GPU busy: batches that are prefetched, and tensors sent while it computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """`make(step)` for steps that follow each other; threads compute it `depth` steps before it is asked for.

    On a CPU take a depth of 0: threads would take cores from the network. A GPU would wait for every batch.
    """

    def __init__(self, make: Callable[[int], Item], last: int, depth: int) -> None:
        self._make, self._last, self._depth = make, last, depth
        self._threads = ThreadPoolExecutor(depth, "batches") if depth else None
        self._pending: dict[int, Future[Item]] = {}

    def take(self, step: int) -> Item:
        """`make(step)`; raises what it raised."""
        if self._threads is None:
            return self._make(step)
        wanted = range(step, min(step + self._depth + 1, self._last))
        self._pending = {
            number: self._pending.get(number) or self._threads.submit(self._make, number) for number in wanted
        }
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Ends the threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def sent(tensor: "torch.Tensor", device: "torch.device | str") -> "torch.Tensor":
    """A tensor of this machine's memory on a device; a GPU is not waited for, though it has more to do before."""
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor.to(device)
