"""A study that embeds three tars in a process that is killed: it stops in the second tar, after one of its shards.

python -m tests.faults.embedded STORE
"""

import sys
import time
from typing import Any

from cluster.inline import Inline
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import open_store
from stages.datasets.sources import ScenesSource
from stages.embeddings import table
from stages.embeddings.format import shard_name
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Architecture, Untrained
from stages.listing.stage import Listing
from stages.shards.stage import Shards

PARTS = 3
STOPPED = 1
ENCODER = Untrained(architecture=Architecture(widths=(8, 16), blocks=(1, 1), projector=(12, 6)))
TAPS = ("backbone", "projector.0", "projector")
VIEWS = ("plain", "flip")
FIRST = shard_name(TAPS[0], VIEWS[0], STOPPED)
"""The shard after which the process stops."""


def graph() -> list[Step]:
    """From scenes to embeddings."""
    return [
        Step("listing", Listing(source=ScenesSource(count=16 * PARTS))),
        Step("shards", Shards(shard_rows=16), {"listing": "listing"}),
        Step("embeddings", Embeddings(encoder=ENCODER, batch=5), {"images": "shards"}),
    ]


def main() -> None:
    """Runs the study until it stops."""
    write = table._put

    def stopping(out: Any, name: str, *others: Any) -> Any:
        stored = write(out, name, *others)
        while name == FIRST:
            time.sleep(1)
        return stored

    setattr(table, write.__name__, stopping)
    run(graph(), open_store(sys.argv[1]), Inline)


if __name__ == "__main__":
    main()
