"""Child processes that decode images for a worker that has many CPUs.

On 16 virtual CPUs 16 threads decoded 1 844 JPEGs of 256 x 256 per second, 16 processes 5 179
(docs/results/gpu/decoding.md). Probably threads wait for Python's lock, which every image takes several times. A child
is sent the encoded bytes of some images and answers with their pixels, both through pipes. It ends when its input
ends, so none outlives its parent.
"""

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from stages.errors import InputError
from stages.images import image_file
from stages.images.framing import Framing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMAND = "from stages.images.decode_processes import main; main()"


@dataclass(frozen=True)
class Encoded:
    """One image as it is stored, and the first digits of its sha256."""

    data: bytes
    digits: bytes


class DecodeProcesses:
    """A fixed number of children. Several threads may ask at once; each waits for a child that has nothing to do."""

    def __init__(self, count: int) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        # One thread each: numerical libraries would start as many as there are CPUs.
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        children = [
            subprocess.Popen(
                [sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            for _ in range(count)
        ]
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for child in children:
            self._idle.put(child)
        self._end = weakref.finalize(self, _end, children)

    def close(self) -> None:
        """Ends the children, whatever they do."""
        self._end()

    def fill(
        self, images: "NDArray[np.uint8]", encoded: Sequence[Encoded], framing: int | Framing, scaled: bool
    ) -> list[int]:
        """Decodes `encoded` into `images` uint8 [N, size, size, 3]; returns the indices of those that could not be.

        Raises InputError where a child has died, for example of too little memory, and for whoever gets it next.
        """
        child = self._idle.get()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            order = {
                "sizes": [len(image.data) for image in encoded],
                "digits": [image.digits.decode() for image in encoded],
                "framing": framing if isinstance(framing, int) else asdict(framing),
                "scaled": scaled,
            }
            head = json.dumps(order).encode() + b"\n"
            child.stdin.write(b"".join([head, *(image.data for image in encoded)]))
            child.stdin.flush()
            failed = _exactly(child.stdout, len(encoded))
            view = images.data.cast("B")
            while view:
                count = child.stdout.readinto(view)  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                view = view[count:]
        except (BrokenPipeError, EOFError) as error:
            raise InputError(
                expected="a process that decodes images to go on",
                found=f"its end, with exit code {child.wait()}",
                remedy="See whether the machine's memory is too small: a process takes some 100 MB.",
            ) from error
        except BaseException:
            # Half a request or half an answer is in its pipes: what is asked next would get the other half.
            child.kill()
            raise
        finally:
            # A dead one too: other threads wait for one, and must learn of it.
            self._idle.put(child)
        return [index for index, flag in enumerate(failed) if flag]


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        child.kill()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        child.wait()


def _exactly(pipe: Any, count: int) -> bytes:
    data: bytes = pipe.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """What a child runs."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    # What a library prints must not be taken for pixels.
    sys.stdout = sys.stderr
    # An interrupt is meant for the parent; it reaches every process of a terminal.
    with contextlib.suppress(KeyboardInterrupt):
        while head := source.readline():
            _answer(json.loads(head), source, sink)


def _answer(order: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    import numpy as np

    framing = order["framing"] if isinstance(order["framing"], int) else Framing(**order["framing"])
    side = framing if isinstance(framing, int) else framing.size
    images = np.zeros((len(order["sizes"]), side, side, 3), dtype=np.uint8)
    failed = bytearray(len(images))
    for index, (size, digits) in enumerate(zip(order["sizes"], order["digits"], strict=True)):
        data = _exactly(source, size)
        if not hashlib.sha256(data).hexdigest().startswith(digits):
            failed[index] = 1
            continue
        try:
            images[index] = image_file.decode_fit(data, framing, pixel_limit=2**62, scaled=order["scaled"])
        except InputError:
            failed[index] = 1
    sink.write(failed)
    sink.write(images.data.cast("B"))
    sink.flush()
