"""All benchmarks, one after the other: `python -m tests.benchmarks`."""

import subprocess
import sys

for name in ("demo", "pretraining", "embeddings", "query", "explorer", "decoder", "extension", "taps"):
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.benchmarks.{name}"], check=True)
