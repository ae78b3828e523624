"""What sets the speed of a worker and not its answer: batches, decoding by other threads, memory kept."""

import ctypes
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from stages.encoders.encoder import Encoder, Vectors
from stages.images.framing import Framing
from stages.images.sets import Decoding, Images, decoding_for

PIXELS = 2**20
"""Pixels of a batch on a CPU: larger ones are no faster, because what a layer leaves falls out of the caches."""
LEAST, MOST = 16, 128
"""Bounds of a batch on a CPU, in images."""
LIMIT = 1024
"""Bound of a batch on a GPU, in images."""
GAIN = 1.05
"""A batch of twice the size must embed so many times as many images per second, or it is not worth its memory."""


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


def keep_memory(device: str) -> None:
    """Has this process keep the memory of one forward pass on a CPU for the next.

    glibc takes each block above 32 MiB from the system and gives it back when it is freed, so that every layer of every
    batch writes to pages that must be found and zeroed first: a quarter of the time of a ResNet-50. Where the C library
    is another, nothing changes.
    """
    if torch.device(device).type != "cpu":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class Passes:
    """Forward passes of at most `batch` images, of fewer where the device's memory turns out to be too small."""

    def __init__(self, encoder: Encoder, batch: int) -> None:
        self.batch = batch
        self._encoder = encoder

    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        """`Encoder.embed` of uint8 [B, H, W, 3]. Raises torch's OutOfMemoryError where not even one image fits."""
        found: list[Vectors] = []
        first = 0
        while first < len(images):
            piece = images[first : first + self.batch]
            try:
                found.append(self._encoder.embed(piece))
                first += len(piece)
            except torch.OutOfMemoryError:
                if len(piece) == 1:
                    raise
                self.batch = len(piece) // 2
        if len(found) == 1:
            return found[0]
        return {tap: np.concatenate([vectors[tap] for vectors in found]) for tap in found[0]}


def choose_batch(encoder: Encoder, device: str) -> int:
    """Images of a forward pass on `device`: on a CPU by their size, on a GPU found by trying."""
    size = encoder.preprocessing.size
    if torch.device(device).type == "cpu":
        fitting = max(1, PIXELS // size**2)
        return min(MOST, max(LEAST, 1 << (fitting.bit_length() - 1)))

    def seconds(batch: int) -> float:
        images = np.zeros((batch, size, size, 3), dtype=np.uint8)
        # The first pass of a size also plans and allocates. What `embed` returns is on the host, so it has waited.
        encoder.embed(images)
        started = time.perf_counter()
        encoder.embed(images)
        return time.perf_counter() - started

    found = grow(seconds)
    torch.cuda.empty_cache()
    return found


def grow(seconds: Callable[[int], float]) -> int:
    """The batch from which doubling gains less than `GAIN`, passes `LIMIT` or does not fit; `seconds` are of one pass.

    Starts at `LEAST`, or lower where that does not fit. Raises torch's OutOfMemoryError where one image does not fit.
    """
    batch = LEAST
    while True:
        try:
            rate = batch / seconds(batch)
            break
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
    while 2 * batch <= LIMIT:
        try:
            doubled = 2 * batch / seconds(2 * batch)
        except torch.OutOfMemoryError:
            break
        if doubled < GAIN * rate:
            break
        batch, rate = 2 * batch, doubled
    return batch


def choose_decoding(images: Images, framing: Framing, device: str) -> Decoding:
    """Who decodes in a worker, which has as many CPUs as torch has threads.

    For a GPU all of them may, while it computes. Where the CPUs compute, decoding at the same time would hold up the
    threads of every layer, so they take turns; on one CPU a second thread would be of no use.
    """
    cpus = torch.get_num_threads()
    if torch.device(device).type != "cpu":
        return decoding_for(images, framing, cpus)
    return Decoding(cpus if cpus > 1 else 0)
