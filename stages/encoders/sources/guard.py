"""What may not happen while a library builds an encoder: foreign code, questions on the terminal, unasked downloads.

Each call of a library names its own safety options, which a test requires. The contexts here hold for what a library
calls in turn, for example a second model that a configuration names.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable with which every `torch.load` reads tensors and plain data only."""


@contextmanager
def unattended() -> Iterator[None]:
    """Standard input is empty inside: a question on the terminal is an EOFError, so nothing waits for an answer.

    Nor are there arguments of a command line: those of this process are not for the code of an encoder.
    """
    terminal, arguments = sys.stdin, sys.argv
    sys.stdin, sys.argv = io.TextIOWrapper(io.BytesIO()), arguments[:1]
    try:
        yield
    finally:
        sys.stdin, sys.argv = terminal, arguments


@contextmanager
def undisturbed() -> Iterator[None]:
    """What code of a user's changes in this process is as it was afterwards: other work goes on in it.

    That is torch's default dtype and device, its threads, gradients and deterministic algorithms, the working folder
    and the environment.
    """
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    gradients, deterministic = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    warn, environment = torch.is_deterministic_algorithms_warn_only_enabled(), dict(os.environ)
    # Open, it can be gone back to even where it was deleted.
    folder = os.open(".", os.O_RDONLY)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            # To set the CPU by name would have every call of torch pass through Python.
            torch.set_default_device(None if device.type == "cpu" else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn)
        os.fchdir(folder)
        os.close(folder)
        if environment != dict(os.environ):
            os.environ.clear()
            os.environ.update(environment)


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
