"""A process that writes a set to a row file, reads it once, a batch at a time, and prints its peak memory in bytes.

python -m tests.stages.decoder.read_once FOLDER
"""

import sys
from pathlib import Path

import numpy as np

from stages.decoder.run import read_sets
from stages.decoder.stage import Decoder
from tests.artifacts import FolderArtifact


def main() -> None:
    """Reads every training image once."""
    folder = Path(sys.argv[1])
    inputs = {name: FolderArtifact(folder / name) for name in ("shards", "embeddings.a")}
    train, _ = read_sets(Decoder(taps=("a:t",), size=64), inputs)
    for rows in np.array_split(np.arange(len(train)), len(train) // 64):
        assert train.shown(rows, rows % 2 == 0, np.zeros_like(rows)).clean.shape == (len(rows), 3, 64, 64)
    # Not what `resource` reports: that starts with the peak of the process that we were forked from.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(1024 * int(status["VmHWM"].split()[0]))


if __name__ == "__main__":
    main()
