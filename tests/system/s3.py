"""An S3 server of our own on loopback, in the environment that `make test-system` makes for it; it can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

SERVER = Path(sys.prefix) / "s3" / "bin" / "ministack"
START_SECONDS = 30.0
BUCKET = "bucket"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class S3Server:
    """A server whose objects live in a folder, so that they outlast its process. It has one bucket, `bucket`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        assert SERVER.exists(), f"expected an S3 server in {SERVER}; found none. `make test-system` installs it"
        environment = {
            **os.environ,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "SERVICES": "s3",
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self._folder / "objects"),
            "DOCKER_HOST": "unix:///nonexistent",
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SERVER], env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError as error:
                # 409: the bucket is there already, from before the server was killed.
                if isinstance(error, urllib.error.HTTPError) and error.code == 409:
                    error.close()
                    return
                assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
                assert time.monotonic() < until, "the S3 server does not answer"
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """Ends it, if it runs."""
        if self._process is not None:
            self.kill()


def access(endpoint: str) -> Mapping[str, str]:
    """The variables with which a person names a server and shows who they are."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
