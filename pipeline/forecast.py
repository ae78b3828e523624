"""How long a graph takes on given machines: its critical path, who goes first, and a rough end of it all.

Steps cost seconds of one CPU (`plan`). A training takes a whole machine, parts share what is left, as the executor does
it; a step begins as soon as all that it reads is there. Pure arithmetic on estimates, for people and for the order in
which steps that wait for room get it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.step import Step
from stages.contract import Gang


@dataclass(frozen=True)
class Forecast:
    """`seconds` until all is done, and the steps of the critical path: the chain that takes the longest by itself."""

    seconds: float
    critical: tuple[str, ...]
    critical_seconds: float


def after(graph: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, float]:
    """For each step, the seconds of the longest chain that begins with it."""
    found: dict[str, float] = {}
    behind: dict[str, float] = {}
    for step in reversed(graph):
        length = found[step.name] = seconds.get(step.name, 0.0) + behind.get(step.name, 0.0)
        for source in step.inputs.values():
            behind[source] = max(length, behind.get(source, 0.0))
    return found


def order(graph: Sequence[Step], seconds: Mapping[str, float]) -> dict[str, int]:
    """Who goes first where not all have room: 0 for the step with the longest chain behind it."""
    length = after(graph, seconds)
    # Sorting is stable: steps of equal length stay in the order of the graph.
    names = sorted((step.name for step in graph), key=lambda name: -length[name])
    return {name: number for number, name in enumerate(names)}


def forecast(graph: Sequence[Step], cpu_seconds: Mapping[str, float], cpus: Sequence[int]) -> Forecast:
    """When all is done on machines of so many CPUs. `cpu_seconds` are those of the steps that are still to do."""
    left = {step.name: cpu_seconds[step.name] for step in graph if step.name in cpu_seconds}
    total, widest = sum(cpus), max(cpus)
    alone = {
        step.name: left[step.name] / (widest if isinstance(step.stage, Gang) else total)
        for step in graph
        if step.name in left
    }
    chain = _chain(graph, alone)
    first = order(graph, alone)
    gangs = {step.name for step in graph if isinstance(step.stage, Gang)}
    inputs = {step.name: [name for name in step.inputs.values() if name in left] for step in graph if step.name in left}
    elapsed, placed = 0.0, dict[str, int]()
    free = sorted(cpus)
    while left:
        ready = sorted((name for name in left if not any(name in left for name in inputs[name])), key=first.__getitem__)
        pools = [name for name in ready if name not in gangs]
        for name in ready:
            # As `cluster.shares`: a training leaves waiting parts a machine.
            if name in gangs and name not in placed and len(free) > bool(pools):
                placed[name] = free.pop()
        rates = {name: float(placed[name]) for name in ready if name in placed}
        rates |= {name: sum(free) / len(pools) for name in pools if free}
        step = min(left[name] / rate for name, rate in rates.items())
        elapsed += step
        for name, rate in rates.items():
            left[name] -= rate * step
            if left[name] <= 1e-9 * max(1.0, cpu_seconds[name]):
                del left[name]
                if name in placed:
                    free = sorted([*free, placed.pop(name)])
    return Forecast(elapsed, chain, sum(alone[name] for name in chain))


def _chain(graph: Sequence[Step], seconds: Mapping[str, float]) -> tuple[str, ...]:
    """The steps of the longest chain among those that have seconds."""
    length = after(graph, seconds)
    found: list[str] = []
    names = [step.name for step in graph if step.name in seconds]
    while names:
        found.append(max(names, key=length.__getitem__))
        names = [step.name for step in graph if found[-1] in step.inputs.values() and step.name in seconds]
    return tuple(found)
