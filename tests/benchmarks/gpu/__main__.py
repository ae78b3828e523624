"""The prepared run for a machine with a GPU; see the package.

    python -m tests.benchmarks.gpu [--minutes 8] [--out FOLDER] [--only SECTION]

Needs torch, timm and what `--needs` lists, and no Ray.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.gpu.needs import missing, needed

LIMITS = {
    "card": 30.0,
    "checks": 75.0,
    "study": 240.0,
    "networks": 210.0,
    "extraction": 75.0,
    "memory": 60.0,
    "rounding": 90.0,
    "ranks": 90.0,
}
"""Seconds that each section may take; what is most worth knowing comes first, since time may run out."""

# Threads of a small network wait for each other, above all where a machine is shared.
SETTINGS = {True: {}, False: {"OMP_NUM_THREADS": "1"}}


@click.command()
@click.option(
    "--minutes", default=8.0, show_default=True, help="Time for everything; sections that are left out say so."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of gpu.json and the study's page."
)
@click.option(
    "--only", multiple=True, type=click.Choice(list(LIMITS)), help="Only this section (may be given several times)."
)
@click.option("--smallest", is_flag=True, help="The smallest size, as on a CPU, whatever the device.")
@click.option("--needs", is_flag=True, help="List the packages that the run needs, and which of them are missing here.")
def main(minutes: float, out: Path | None, only: tuple[str, ...], smallest: bool, needs: bool) -> None:
    """Measure this machine."""
    if needs:
        absent = missing()
        for name in needed():
            click.echo(f"{name}{'  MISSING' if name in absent else ''}")
        raise click.exceptions.Exit(1 if absent else 0)
    if absent := missing():
        raise click.ClickException(f"expected the packages of --needs; missing: {' '.join(absent)}. Install these.")
    import torch

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    full = device != "cpu" and not smallest
    if device == "cpu":
        click.echo("No GPU that torch can use: the smallest size on the CPU. Its figures say nothing but that it runs.")
    target = out or Path("gpu-results")
    target.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * minutes
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="repscope-gpu-") as scratch:
        for name in only or LIMITS:
            found[name] = measured(name, device, full, ends, scratch)
            (target / "gpu.json").write_text(
                json.dumps({"minutes": minutes, "full": full, "sections": found}, indent=1)
            )
        page = Path(scratch) / "report.html"
        if page.exists():
            (target / "report.html").write_bytes(page.read_bytes())
    failed = [name for name, section in found.items() if section["ended"] != "done" or section["failed_checks"]]
    click.echo(f"\n{target / 'gpu.json'} written; {'not sound: ' + ', '.join(failed) if failed else 'all sound'}.")
    raise click.exceptions.Exit(1 if failed else 0)


def measured(name: str, device: str, full: bool, ends: float, scratch: str) -> dict[str, Any]:
    """Runs a section in a process of its own and takes its figures as they come.

    It is killed when its time is over; the figures until then count.
    """
    left = ends - time.monotonic()
    limit = min(LIMITS[name], left)
    click.echo(f"\n{name}, at most {max(limit, 0):.0f} s")
    section: dict[str, Any] = {
        "ended": "done",
        "seconds": 0.0,
        "limit_seconds": limit,
        "failed_checks": 0,
        "figures": [],
    }
    if limit < 1:
        return section | {"ended": "left out: no time"}
    words = [name, device, "full" if full else "smallest", str(limit), scratch]
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.gpu.sections", *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **SETTINGS[full], "XDG_CACHE_HOME": f"{scratch}/cache"},
    ) as process:
        stop = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                click.echo(line.rstrip())
                continue
            figure = json.loads(line)
            section["figures"].append(figure)
            section["failed_checks"] += figure.get("passed") is False or bool(figure.get("exit_code"))
            click.echo(f"  {worded(figure)}")
        code = process.wait()
        stop.cancel()
    section["seconds"] = time.monotonic() - began
    if code:
        late = section["seconds"] >= limit
        section["ended"] = f"stopped after {limit:.0f} s" if late else f"ended with {code}"
        click.echo(f"  {name} {section['ended']}")
    return section


def worded(figure: dict[str, Any]) -> str:
    """A figure as a line for people."""
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figure.items()
        if name != "what" and value is not None
    ]
    return f"{figure['what']}: {', '.join(shown)}"


if __name__ == "__main__":
    main()
