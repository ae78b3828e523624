"""What may not happen while a library builds an encoder: foreign code, questions on the terminal, unasked downloads.

Each call of a library names its own safety options, which a test requires. The contexts here hold for what a library
calls in turn, for example a second model that a configuration names.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable with which every `torch.load` reads tensors and plain data only."""


@contextmanager
def unattended() -> Iterator[None]:
    """Standard input is empty inside: a question on the terminal is an EOFError, so nothing waits for an answer."""
    terminal = sys.stdin
    sys.stdin = io.StringIO()
    try:
        yield
    finally:
        sys.stdin = terminal


@contextmanager
def confined(download: bool = False) -> Iterator[None]:
    """No pickle runs code inside, nothing waits for an answer, and the hub is reached only where `download` is true."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        with unattended(), _online(download):
            yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before


@contextmanager
def _online(download: bool) -> Iterator[None]:
    """Takes the hub's client offline unless `download`. Where it is not installed, nothing can reach the hub."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not download
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
