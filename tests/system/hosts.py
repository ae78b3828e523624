"""Hosts of their own on this machine: network namespaces on one bridge, each with its host name and processes.

Needs root and the kernel's namespaces.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


class Hosts:
    """Hosts by name. Every process on a host ends with the command that began it."""

    def __init__(self, names: Sequence[str]) -> None:
        # A name of this process's own: others may have hosts at the same time.
        self._prefix = f"r{os.getpid()}"
        self._network = f"10.{100 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
        self.names = tuple(names)

    def ip(self, name: str) -> str:
        """The address of a host."""
        return f"{self._network}.{10 + self.names.index(name)}"

    def command(self, name: str, words: Sequence[str], before: str = "true") -> list[str]:
        """A command that begins a host with `words`, after a line of shell there that may mount over folders."""
        # No name server answers on the bridge, and each question to one would take seconds.
        inside = f'hostname {name} && mount --bind /dev/null /etc/resolv.conf && {before} && exec "$@"'
        apart = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        return ["ip", "netns", "exec", f"{self._prefix}{name}", *apart, "sh", "-c", inside, "sh", *words]

    def beside(self, process: int, words: Sequence[str]) -> list[str]:
        """A command that runs `words` on the host that the process of a `command` has begun: beside its processes."""
        [first] = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return ["nsenter", f"--target={first}", "--all", "--", *words]

    @contextmanager
    def up(self) -> Iterator["Hosts"]:
        """The hosts, until the end of the block."""
        with ExitStack() as stack:
            self._begin(stack, f"link add {self._prefix} type bridge", f"link del {self._prefix}")
            _ip(f"addr add {self._network}.1/24 dev {self._prefix}")
            _ip(f"link set {self._prefix} up")
            for number, name in enumerate(self.names):
                host, cable = f"{self._prefix}{name}", f"{self._prefix}v{number}"
                self._begin(stack, f"netns add {host}", f"netns del {host}")
                # By itself it would go some time after its host.
                self._begin(stack, f"link add {cable} type veth peer name eth0 netns {host}", f"link del {cable}")
                _ip(f"link set {cable} master {self._prefix} up")
                _ip(f"-n {host} link set lo up")
                _ip(f"-n {host} addr add {self.ip(name)}/24 dev eth0")
                _ip(f"-n {host} link set eth0 up")
                # A host learns its own address by the route out.
                _ip(f"-n {host} route add default via {self._network}.1")
            yield self

    def _begin(self, stack: ExitStack, begin: str, end: str) -> None:
        _ip(begin)
        stack.callback(_ip, end)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)
