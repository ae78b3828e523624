"""Who works where: from machines, pools and gangs to a number of workers for each pool and a placement for each gang.

A pool is the workers of one `run`. A worker is useful alone, so pools take what there is, evenly. A gang is useful only
when it has all its room, so it gets that in one piece: machines are reserved for it, and no worker starts there until
it has ended. So neither waits for what the other holds, and there is no deadlock.

Gangs come first, in their order. But a gang leaves pools that have calls waiting at least one worker's room: on the
only machine it waits until they have no more, which costs nothing, since somebody computes all the time.

Pure: no clock, no Ray, no threads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.errors import ResourceError
from cluster.resources import Layout, Machine, layout_for_gang, ranks_that_fit

Machines = Mapping[str, Machine]
"""Machines by id, each with the CPUs and GPUs that no other job holds."""


@dataclass(frozen=True)
class Placement:
    """Where a gang is: how many ranks on which machine, and how wide each."""

    layout: Layout
    ranks: Mapping[str, int]

    def fits(self, machines: Machines) -> bool:
        """Whether the machines still have that room."""
        return all(
            name in machines
            and machines[name].cpus >= count * self.layout.cpus
            and machines[name].gpus >= count * self.layout.gpus
            for name, count in self.ranks.items()
        )


@dataclass(frozen=True)
class PoolClaim:
    """What a pool asks for: at most `wants` workers of `cpus` and `gpus`. `waiting`: it has calls that nobody does."""

    key: int
    order: int
    wants: int
    cpus: int
    gpus: int
    waiting: bool = True


@dataclass(frozen=True)
class GangClaim:
    """What a gang asks for: `ranks`, no fewer than `least`; with `gpus` (1 or 0) each has one, None: if there are any.

    `placement` is where it is already. One that is `started` stays there; others move where their room is gone,
    or where fewer parts have to end first. It is on machines to `avoid` only where no others have room.
    """

    key: int
    order: int
    ranks: int
    least: int
    gpus: int | None = None
    placement: Placement | None = None
    started: bool = False
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Shares:
    """Who gets what: the placement of each gang that has one, and how many workers each pool may have."""

    placements: dict[int, Placement] = field(default_factory=dict)
    workers: dict[int, int] = field(default_factory=dict)


def share(
    machines: Machines,
    pools: Sequence[PoolClaim],
    gangs: Sequence[GangClaim],
    busy: Mapping[str, int],
    workers: int | None = None,
) -> Shares:
    """Shares the machines out. `busy`: CPUs of each that workers hold; `workers` bounds those of all pools together."""
    placements = {
        gang.key: gang.placement for gang in gangs if gang.placement and (gang.started or gang.placement.fits(machines))
    }
    pools = sorted(pools, key=lambda pool: (pool.order, pool.key))
    waiting = [pool for pool in pools if pool.waiting]
    for gang in sorted(gangs, key=lambda gang: (gang.order, gang.key)):
        current = placements.get(gang.key)
        if current is not None and gang.started:
            continue
        others = {key: placement for key, placement in placements.items() if key != gang.key}
        found = _new_placement(gang, machines, others, waiting, busy)
        # One that waits for parts to end moves only to machines where fewer are at work.
        if found is not None and (current is None or _cost(gang, found, busy) < _cost(gang, current, busy)):
            placements[gang.key] = found
    return Shares(placements, _fill(_unreserved(machines, placements), pools, workers))


def _new_placement(
    gang: GangClaim,
    machines: Machines,
    others: Mapping[int, Placement],
    waiting: Sequence[PoolClaim],
    busy: Mapping[str, int],
) -> Placement | None:
    """The placement of a gang beside the `others`; None where there is none, or `waiting` pools would have no room."""
    free = _unreserved(machines, others)
    elsewhere = {name: machine for name, machine in free.items() if name not in gang.avoid}
    found = placement_for(gang, elsewhere, machines, busy) or placement_for(gang, free, machines, busy)
    if found is None:
        return None
    left = _unreserved(machines, {**others, gang.key: found})
    takes_all = any(_any_fits(pool, free) for pool in waiting) and not any(_any_fits(pool, left) for pool in waiting)
    return None if takes_all else found


def placement_for(gang: GangClaim, free: Machines, machines: Machines, busy: Mapping[str, int]) -> Placement | None:
    """The placement of a gang on the `free` ones of the `machines`; None where it had better wait for more of them.

    It takes what has half the CPUs that it would have on all of them, and of those machines the one that is drained
    first: the least `busy`. Of one rank the placement is a whole machine.
    """
    alone, found = layout_of(gang, machines), layout_of(gang, free)
    if alone is None or found is None or found.gpus != alone.gpus:
        return None
    by_delay = sorted(free, key=lambda name: (busy.get(name, 0), -free[name].cpus, name))
    if found.workers == 1:
        for name in by_delay:
            if 2 * free[name].cpus >= alone.workers * alone.cpus and free[name].gpus >= found.gpus:
                return Placement(replace(found, cpus=free[name].cpus), {name: 1})
        return None
    if 2 * found.workers * found.cpus < alone.workers * alone.cpus:
        return None
    ranks: dict[str, int] = {}
    left = found.workers
    for name in by_delay:
        count = min(left, ranks_that_fit(free[name], found.cpus, bool(found.gpus)))
        if count:
            ranks[name] = count
            left -= count
    return Placement(found, ranks)


def layout_of(gang: GangClaim, machines: Machines) -> Layout | None:
    """How wide the ranks of a gang are on these machines; None where it does not fit."""
    usable = [machine for machine in machines.values() if machine.cpus]
    if gang.gpus == 0:
        usable = [replace(machine, gpus=0) for machine in usable]
    try:
        found = layout_for_gang(usable, gang.ranks, gang.least)
    except ResourceError:
        return None
    return None if gang.gpus and not found.gpus else found


def machine_for(pool: PoolClaim, free: Machines) -> str | None:
    """Where the next worker of a pool starts, given what is `free` of each machine; None where it fits nowhere.

    Where most is free, so that work is spread; one that needs no GPU on a machine without, if there is room.
    """
    fitting = [name for name, machine in free.items() if _workers_that_fit(pool, machine)]
    return min(fitting, key=lambda name: _preference(pool, free[name], name), default=None)


def _preference(pool: PoolClaim, machine: Machine, name: str) -> tuple[bool, int, str]:
    return (not pool.gpus and machine.gpus > 0, -machine.cpus, name)


def _fill(free: Machines, pools: Sequence[PoolClaim], workers: int | None) -> dict[int, int]:
    """How many workers each pool may have: one after another takes one more, until none wants or fits."""
    granted = {pool.key: 0 for pool in pools}
    left = {name: [machine.cpus, machine.gpus] for name, machine in free.items()}
    # A machine that is too full for a pool stays so: each pool goes through them once.
    open_to = {pool.key: sorted(free, key=lambda name: _preference(pool, free[name], name)) for pool in pools}
    total = 0
    # GPUs are scarcer than CPUs: a worker that has one needs many CPUs of its machine in one piece.
    for on_gpu in (True, False):
        active = [pool for pool in pools if pool.wants > 0 and bool(pool.gpus) == on_gpu]
        total = _take_turns(active, granted, left, open_to, total, workers)
    return granted


def _take_turns(
    active: list[PoolClaim],
    granted: dict[int, int],
    left: dict[str, list[int]],
    open_to: Mapping[int, list[str]],
    total: int,
    workers: int | None,
) -> int:
    """Grants one worker after the other, as long as there are any; returns how many there are by then."""
    while active and (workers is None or total < workers):
        still = []
        for pool in active:
            names = open_to[pool.key]
            while names and (left[names[0]][0] < pool.cpus or left[names[0]][1] < pool.gpus):
                names.pop(0)
            if not names or (workers is not None and total >= workers):
                continue
            left[names[0]][0] -= pool.cpus
            left[names[0]][1] -= pool.gpus
            granted[pool.key] += 1
            total += 1
            if granted[pool.key] < pool.wants:
                still.append(pool)
        active = still
    return total


def _cost(gang: GangClaim, placement: Placement, busy: Mapping[str, int]) -> tuple[int, int]:
    """How many of its machines the gang had better avoid, and how many of their CPUs workers hold."""
    return len(gang.avoid & placement.ranks.keys()), sum(busy.get(name, 0) for name in placement.ranks)


def _unreserved(machines: Machines, placements: Mapping[int, Placement]) -> dict[str, Machine]:
    """What is left of the machines: a rank takes its own CPUs and GPUs only, so that a wide machine has some left."""
    left = dict(machines)
    for placement in placements.values():
        for name, count in placement.ranks.items():
            if name in left:
                cpus = left[name].cpus - count * placement.layout.cpus
                gpus = left[name].gpus - count * placement.layout.gpus
                left[name] = replace(left[name], cpus=max(0, cpus), gpus=max(0, gpus))
    return left


def _workers_that_fit(pool: PoolClaim, machine: Machine) -> int:
    fitting = machine.cpus // pool.cpus
    return min(fitting, machine.gpus // pool.gpus) if pool.gpus else fitting


def _any_fits(pool: PoolClaim, free: Machines) -> bool:
    return any(_workers_that_fit(pool, machine) for machine in free.values())
