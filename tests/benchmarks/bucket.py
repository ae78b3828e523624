"""How long `plan` and a finished `run` of twenty steps take where every answer of the store takes 50 ms.

python -m tests.benchmarks.bucket     needs the S3 server of `make test-system`
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster.inline import Inline
from pipeline.backends import backend_at
from pipeline.plan import plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store, open_store, share
from tests.faults.arithmetic import Numbers
from tests.system.proxy import FaultProxy
from tests.system.s3 import BUCKET, S3Server, access

STEPS = 20
DELAY_SECONDS = 0.05
URL = f"s3://{BUCKET}/store"


def main() -> None:
    """Prints seconds and requests."""
    graph = [Step(f"step-{number:02d}", Numbers(first=number, parts=1)) for number in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        os.environ.update(access(server.url))
        run(graph, open_store(URL), Inline, study="bucket")
        proxy = FaultProxy(server.port)
        proxy.delay_seconds = DELAY_SECONDS
        os.environ.update(access(proxy.url))
        try:
            for name, action in (
                ("plan", lambda store: plan(graph, store)),
                ("run", lambda store: run(graph, store, Inline, study="bucket")),
            ):
                _measure(name, action, proxy)
        finally:
            proxy.close()
            server.close()


def _measure(name: str, action: Callable[..., object], proxy: FaultProxy) -> None:

    before = sum(proxy.seen.values())
    store = Store(backend_at(URL), URL)
    share(store)
    started = time.perf_counter()
    action(store)
    seconds = time.perf_counter() - started
    requests = sum(proxy.seen.values()) - before
    print(f"{name}: {seconds:.2f} s, {requests} requests, {STEPS} finished steps, {1000 * DELAY_SECONDS:.0f} ms each")


if __name__ == "__main__":
    main()
