"""Small disks of our own, mounted for a test: they can be filled, and one of them knows no hard links. Needs root."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def tmpfs(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory."""
    with _mounted(folder, ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none"]) as found:
        yield found


@contextmanager
def ext4(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in a file, with blocks and a journal as a disk has them."""
    with (
        _device(folder.with_suffix(".img"), size_bytes, ["mkfs.ext4", "-q", "-b", "4096", "-m", "0"]) as device,
        _mounted(folder, ["mount", "-t", "ext4", device]) as found,
    ):
        yield found


@contextmanager
def exfat(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system without hard links, as memory sticks have it."""
    with (
        _device(folder.with_suffix(".img"), size_bytes, ["mkfs.exfat"]) as device,
        _mounted(folder, ["mount.exfat-fuse", device]) as found,
    ):
        yield found


def fill(disk: Path, left_bytes: int) -> Path:
    """Writes a file that leaves so much room; returns its path."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"")
    with ballast.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, psutil.disk_usage(str(disk)).free - left_bytes)
    return ballast


@contextmanager
def _device(image: Path, size_bytes: int, format_: list[str]) -> Iterator[str]:
    """A block device over a new file, with a file system on it."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run([*format_, str(image)])
    device = _run(["losetup", "--find", "--show", str(image)]).strip()
    try:
        yield device
    finally:
        _run(["losetup", "--detach", device])


@contextmanager
def _mounted(folder: Path, command: list[str]) -> Iterator[Path]:
    folder.mkdir()
    _run([*command, str(folder)])
    try:
        assert folder.is_mount(), f"{command[0]} mounted nothing"
        yield folder
    finally:
        if folder.is_mount():
            _run(["umount", str(folder)])


def _run(command: list[str]) -> str:
    """Runs a command; fails with its output, and with what it needs."""
    assert os.geteuid() == 0, "expected root, which mounting needs; run `make test-system` as root"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout
