"""A study from nothing to its page, in one process without Ray: seconds of every step, and what `show` takes after."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.gpu.figures import Benchmark

SMALLEST = Path(__file__).parents[2] / "data" / "studies" / "micro.yaml"
RESERVE = 12.0
"""Seconds of the section's time that are left when a study is stopped."""


def repscope(*words: str) -> "subprocess.CompletedProcess[str]":
    """A command, as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words], stdout=subprocess.PIPE, text=True, check=False
    )


def run(benchmark: Benchmark) -> None:
    """Writes the seconds of the study and of each step as it ends, and of `show`."""
    study, store = ("scenes" if benchmark.full else str(SMALLEST)), f"{benchmark.folder}/store"
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", "run", study, "--store", store, "--executor", "inline"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            # What is done by then is in the store; to say so takes a few seconds.
            out, _ = running.communicate(timeout=max(1.0, benchmark.seconds - RESERVE))
        except subprocess.TimeoutExpired:
            running.kill()
            out, _ = running.communicate()
    benchmark.write("study to its page", seconds=time.perf_counter() - began, exit_code=running.returncode)
    states = json.loads(repscope("status", study, "--store", store, "--json").stdout)
    for state in states:
        benchmark.write(f"step {state['name']}", state=state["state"], seconds=state["seconds"])
    if running.returncode:
        return
    for line in out.splitlines():
        benchmark.write("headline", text=line)
    page = Path(f"{benchmark.folder}/report.html")
    benchmark.write("page", exit_code=repscope("report", study, "--store", store, "--out", str(page)).returncode)
    show(benchmark, study, store)


def show(benchmark: Benchmark, study: str, store: str) -> None:
    """How long one image takes, the process's start included."""
    from stages.datasets.scenes import render
    from stages.images.pixels import encode_png

    image, painted = Path(benchmark.folder) / "image.png", Path(benchmark.folder) / "shown.png"
    image.write_bytes(encode_png(render(3, [0])[0][0]))
    for turn in ("first", "second"):
        began = time.perf_counter()
        ended = repscope("show", study, str(image), "--store", store, "--out", str(painted))
        benchmark.write(
            f"show, one image, {turn} process",
            seconds=time.perf_counter() - began,
            exit_code=ended.returncode,
            cpus=os.cpu_count(),
        )
