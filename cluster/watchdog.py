"""Ends an embedded Ray whose driver was killed by SIGKILL: its processes at once, and its folder.

Ray's own processes die with their driver, but two agents of its raylet wait a minute for a head that is dead as well. A
watchdog is a small process of its own session that reads from a pipe which only the driver holds open. When the pipe
ends, it kills those processes of the driver's session that have a file open in the folder of this Ray, where each
of them writes its log. (Their environment would tell as well, had some not overwritten it with their title.) A person
who reads the logs in another terminal is left alone.

Run as a script, it imports nothing of ours: it must start in hundredths of a second and hold little memory.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

QUIET_SECONDS = 1.0
"""It is over when for so long no process was found: one that was just being started may have been missed."""


def watch(folder: str) -> "subprocess.Popen[bytes]":
    """Starts a watchdog over the Ray of this process that lives in a folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, folder, str(os.getsid(0)), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(watchdog: "subprocess.Popen[bytes]") -> None:
    """Tells a watchdog that Ray has been shut down, and waits for it: it checks once more and ends."""
    watchdog.communicate(b"done")


def inside(folder: str, session: int, but: int) -> list[int]:
    """Processes of a session with a file open below the folder, one of them left out."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != but:
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) != session:
                    continue
                files = (os.readlink(f"/proc/{name}/fd/{number}") for number in os.listdir(f"/proc/{name}/fd"))
                if any(file.startswith(f"{folder}/") for file in files):
                    found.append(int(name))
    return found


def main() -> None:
    """Waits for the driver's end, or its word, and clears up."""
    folder, session, driver = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    patience = 0.0 if sys.stdin.buffer.read() else QUIET_SECONDS
    found = inside(folder, session, driver)
    until = time.monotonic() + patience
    while found or time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if found:
            until = time.monotonic() + patience
        time.sleep(0.05)
        found = inside(folder, session, driver)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
