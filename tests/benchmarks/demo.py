"""What the scenes, ceiling and tiny studies reach on this machine, beside what they must reach.

    python -m tests.benchmarks.demo [FOLDER]

Runs them in new stores under FOLDER (default: a temporary folder), from the command line as a person does, and prints
seconds of every step, memory, the answers' numbers and how long a finished study takes to say so. Asserts nothing.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

REPSCOPE = str(Path(sys.executable).with_name("repscope"))
POLL_SECONDS = 2.0


class Memory:
    """Largest resident memory of the driver and of any one process below it, bytes, while a command runs."""

    def __init__(self) -> None:
        self.driver = 0
        self.worker = 0
        self._stop = threading.Event()

    def watch(self, process: psutil.Process) -> None:
        """Polls every few seconds until `stop`."""
        while not self._stop.wait(POLL_SECONDS):
            try:
                self.driver = max(self.driver, process.memory_info().rss)
                for child in process.children(recursive=True):
                    if "ray::" in " ".join(child.cmdline()):
                        self.worker = max(self.worker, child.memory_info().rss)
            except psutil.Error:
                continue

    def stop(self) -> None:
        """Ends the watch."""
        self._stop.set()


def run(study: str, store: Path) -> tuple[dict[str, Any], float, Memory]:
    """Runs `repscope run`: its JSON, wall seconds, and memory."""
    memory, began = Memory(), time.perf_counter()
    with subprocess.Popen([REPSCOPE, "run", study, "--store", str(store), "--json"], stdout=subprocess.PIPE) as process:
        watcher = threading.Thread(target=memory.watch, args=(psutil.Process(process.pid),))
        watcher.start()
        out, _ = process.communicate()
        memory.stop()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{study} ended with {process.returncode}")
    return json.loads(out), time.perf_counter() - began, memory


def steps(study: str, store: Path) -> dict[str, dict[str, Any]]:
    """The states of a finished study by step."""
    done = subprocess.run(
        [REPSCOPE, "status", study, "--store", str(store), "--json"], capture_output=True, check=True, text=True
    )
    return {state["name"]: state for state in json.loads(done.stdout)}


def seconds_again(words: list[str]) -> float:
    """Least wall seconds of five runs of a command, from process start."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([REPSCOPE, *words], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - began)
    return min(times)


def rows(found: dict[str, dict[str, Any]], question: str) -> "pd.DataFrame":
    """The results of a question."""
    return pd.read_parquet(Path(found[question]["url"]) / "results.parquet")


def line(what: str, reached: str, goal: str) -> None:
    """One figure beside its goal."""
    print(f"{what:<58} {reached:>24}   goal {goal}", flush=True)


def tiny(folder: Path) -> None:
    """Every room once."""
    _, seconds, _ = run("tiny", folder / "tiny")
    line("tiny on Ray, seconds", f"{seconds:.0f}", "90")


def ceiling(folder: Path) -> None:
    """The check on the method: a decoder that is given the true attributes."""
    run("ceiling", folder / "ceiling")
    found = steps("ceiling", folder / "ceiling")
    kept = rows(found, "kept").query("metric == 'kept'").set_index("subject")
    line("ceiling, decoder, seconds", f"{found['decoder']['seconds']:.0f}", "240")
    for subject, goal in (("y", 0.8), ("pattern", 0.8), ("background_hue", 0.8), ("scale", 0.7)):
        r = kept.loc[subject]
        line(f"ceiling, kept({subject}) at oracle:attributes", f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]", str(goal))


def scenes(folder: Path) -> None:
    """The demo."""
    store = folder / "scenes"
    _, seconds, memory = run("scenes", store)
    found = steps("scenes", store)
    line("demo, seconds", f"{seconds:.0f}", "900")
    line("demo, encoder, seconds", f"{found['encoder.simclr']['seconds']:.0f}", "180")
    line("demo, decoder, seconds", f"{found['decoder']['seconds']:.0f}", "420")
    painted = sum(state["seconds"] for name, state in found.items() if state["stage"] == "samples")
    line("demo, samples, seconds summed over workers", f"{painted:.0f}", "120 of wall time")
    line("demo, largest driver / worker, MB", f"{memory.driver / 1e6:.0f} / {memory.worker / 1e6:.0f}", "1 074 / 3 221")
    line("finished study, run again, seconds", f"{seconds_again(['run', 'scenes', '--store', str(store)]):.2f}", "1.0")
    line("finished study, status, seconds", f"{seconds_again(['status', 'scenes', '--store', str(store)]):.2f}", "0.6")

    kept = rows(found, "kept")
    backbone = kept.query("metric == 'kept' and encoder == 'simclr' and tap == 'backbone'").set_index("subject")
    for subject, goal in (
        ("y", "0.6"),
        ("scale", "0.6"),
        ("pattern", "0.6"),
        ("x", "-"),
        ("hue", "-"),
        ("background_hue", "-"),
    ):
        r = backbone.loc[subject]
        line(f"kept({subject}) at simclr:backbone", f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]", goal)
    gaps = kept.query("metric == 'kept difference'").set_index("subject")
    for subject in ("hue", "background_hue", "x"):
        r = gaps.loc[subject]
        line(
            f"kept(backbone) - kept(projector), {subject}", f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]", "> 0 for two"
        )
    ranked = rows(found, "faithfulness").query("metric == 'mrr' and subject == 'samples'")
    for r in ranked.itertuples():
        goal = "0.2, then 0.3" if r.tap == "backbone" else "-"
        line(f"MRR at {r.encoder}:{r.tap}, {r.unit}", f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]", goal)
    for name, state in found.items():
        print(f"  {name:<24} {state['seconds']:8.1f} s of work")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        output_folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        tiny(output_folder)
        ceiling(output_folder)
        scenes(output_folder)
