"""The environment of this process, changed for a while and given back.

Ray, Ray Train and we set variables that what Ray starts has to see. Nobody who starts something else afterwards, a Ray
of their own above all, may inherit them: `RAY_AUTH_MODE=token` without the token ends a Ray before it has begun.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def changed(values: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables, and gives them back as they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


class Shared:
    """Variables that several threads need at once: they are given back when the last of them has done with them."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._lock = threading.Lock()
        self._holders = 0
        self._held = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Sets the variables for as long as anybody holds them."""
        with self._lock:
            if self._holders == 0:
                self._held.enter_context(changed(self._values))
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._held.close()


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Gives back every variable as it was, whoever has changed it: for seconds, as other threads change theirs too."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in before.keys() | os.environ.keys():
            _set(name, before.get(name))


def _set(name: str, value: str | None) -> None:
    """Sets or removes a variable, and touches none that is right: Ray's own threads read them meanwhile."""
    if value is None:
        os.environ.pop(name, None)
    elif os.environ.get(name) != value:
        os.environ[name] = value
