"""The allocation of a Ray cluster: its machines, the workers of every pool, the placements of gangs.

`cluster.shares` decides; here is what it decides on. Pools and gangs live in threads of their own. They call often:
to see how many workers they may have, to start one, to release one. Machines are read anew every `READ_SECONDS`, so one
that joins is used and one that leaves is forgotten. CPUs that other jobs hold are no room of ours.

Every worker is bound to a machine, so that it is counted where it runs. A worker whose pool has ended is
kept as a spare: the next pool takes it over, with the libraries that it has loaded, unless its room is needed first.

For work that has no room, Ray is asked for actors that fit on no machine of today (`Demand`), so that an autoscaler
sees them. A machine that joins may take one until it is first read; then they are ended. They end with the driver, as
a request to the autoscaler itself would not.
"""

import threading
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.connect import Connection, free_resources
from cluster.errors import ConnectError
from cluster.executor import Claim, Room
from cluster.mailbox import NODE_LABEL, Location
from cluster.resources import Layout, Machine, layout_for_gang, layout_for_parts
from cluster.shares import GangClaim, Placement, PoolClaim, Shares, layout_of, machine_for, share

READ_SECONDS = 2.0
"""How often machines are read anew."""

SOON_SECONDS = 0.25
"""How often they are read while a pool or a gang has no room."""

START_FAILURES = 3
"""After so many workers in a row that have died before their first call, no other is started."""

ASIDE_SECONDS = 5.0
"""No worker is started for so long on a machine on which one has failed to start. What else fails there meanwhile is
counted as the same failure, since a machine that is lost takes along all that are starting on it."""

PENDING_SECONDS = 120.0
"""A worker that has not started after so long is started elsewhere."""

SPARE_SECONDS = 30.0
"""A worker that nobody has needed for so long gives its CPU back to the cluster."""

DEMANDED = 32
"""So many actors at most are asked for beyond the room there is."""

MANY = 1 << 20
"""How many workers a pool wants that does not know how many calls are still to come."""


class Demand:
    """An actor that no machine of today can take."""


@dataclass(eq=False)
class WorkerProcess:
    """A process of ours on a machine, since then; `where` once it has started."""

    handle: Any
    machine: str
    layout: Layout
    since: float
    where: Location | None = None


@dataclass(eq=False)
class Pool:
    """The workers of one `run`. `grant` is how many it may have, `wants` how many it has calls for."""

    key: int
    claim: Claim
    gpu: bool
    layout: Layout
    grant: int = 0
    wants: int = MANY
    waiting: bool = True
    since: float = 0.0
    workers: set[WorkerProcess] = field(default_factory=set)

    @property
    def asks(self) -> PoolClaim:
        """What it asks for."""
        layout = self.layout
        return PoolClaim(self.key, self.claim.order, self.wants, layout.cpus, layout.gpus, self.waiting)


@dataclass(eq=False)
class Gang:
    """A gang that waits for its placement or has it."""

    key: int
    claim: Claim
    ranks: int
    least: int
    gpus: int | None = None
    placement: Placement | None = None
    started: bool = False
    since: float = 0.0
    avoid: frozenset[str] = frozenset()

    @property
    def asks(self) -> GangClaim:
        """What it asks for."""
        where = self.placement, self.started, self.avoid
        return GangClaim(self.key, self.claim.order, self.ranks, self.least, self.gpus, *where)


class Allocation:
    """See the module's docstring. `workers` bounds the workers of all pools together."""

    def __init__(self, connection: Connection, actor: type, workers: int | None) -> None:
        import ray

        self.changed = threading.Condition()
        self._connection = connection
        self._actor: Any = ray.remote(actor)
        self._demand_actor: Any = ray.remote(Demand)
        self._workers = workers
        self._machines: dict[str, Machine] = {}
        self._others: list[dict[str, tuple[int, int]]] = []
        self._read = 0.0
        self._reading = threading.Lock()
        self._keys = 0
        self._pools: dict[int, Pool] = {}
        self._gangs: dict[int, Gang] = {}
        self._spares: list[WorkerProcess] = []
        self._shares = Shares()
        self._full: frozenset[str] = frozenset()
        self._failures: dict[str, tuple[int, float]] = {}
        self._demanded: tuple[frozenset[str], tuple[tuple[int, int], ...]] = frozenset(), ()
        self._demands: list[Any] = []
        self.read()
        tries = 0
        while any(map(any, self._others[-1].values())) and tries < 4:
            # Of workers that have just ended Ray hears a little later.
            time.sleep(SOON_SECONDS)
            self.read()
            tries += 1

    # What there is.

    @property
    def machines(self) -> dict[str, Machine]:
        """All machines, whoever uses them."""
        return self._machines

    def refresh(self) -> None:
        """Reads the machines anew where that is due. Cheap: to be called again and again, from any thread."""
        short = any(pool.grant == 0 for pool in list(self._pools.values()))
        short = short or any(gang.placement is None for gang in list(self._gangs.values()))
        if time.monotonic() - self._read < (SOON_SECONDS if short else READ_SECONDS):
            return
        if self._connection.machine is None and self._reading.acquire(blocking=False):
            try:
                self.read()
            finally:
                self._reading.release()

    def read(self) -> None:
        """Reads the machines, and what others hold of them."""
        machines = {machine.id: machine for machine in self._connection.machines()}
        free = {} if self._connection.machine is not None else free_resources()
        with self.changed:
            self._read = time.monotonic()
            # On a machine that has just joined, a `Demand` may hold CPUs, as another job would.
            joined = machines.keys() - self._machines.keys() if self._demands else set()
            self._machines = machines
            ours = self._held(spares=True)
            others = {}
            for name, machine in machines.items():
                # Not yet known to be free or not: taken for free.
                left = None if name in joined else free.get(name)
                left = left or {"CPU": machine.cpus, "GPU": machine.gpus}
                cpus, gpus = ours.get(name, (0, 0))
                others[name] = (
                    max(0, machine.cpus - int(left.get("CPU", 0)) - cpus),
                    max(0, machine.gpus - int(left.get("GPU", 0)) - gpus),
                )
            # The smaller of two readings: Ray sees a little later what has ended.
            self._others = [*self._others[-1:], others]
            for name in [name for name in self._failures if name not in machines]:
                del self._failures[name]
            for worker in [worker for worker in self._spares if self._read - worker.since > SPARE_SECONDS]:
                self._end_spare(worker)
            self._spares = [worker for worker in self._spares if worker.machine in machines]
            self._share()
            self._demand()

    def rooms(self) -> dict[str, Machine]:
        """What the machines have for us: without what other jobs hold."""
        found = {}
        for name, machine in self._machines.items():
            readings = [reading[name] for reading in self._others if name in reading]
            cpus = min((reading[0] for reading in readings), default=0)
            gpus = min((reading[1] for reading in readings), default=0)
            found[name] = replace(machine, cpus=max(0, machine.cpus - cpus), gpus=max(0, machine.gpus - gpus))
        return found

    # Pools.

    def open_pool(self, claim: Claim, gpu: bool) -> Pool:
        """A pool without workers. `grow` gives it its layout once there is a machine."""
        with self.changed:
            self._keys += 1
            pool = Pool(self._keys, claim, gpu, Layout(0, 0, 0), since=time.monotonic())
            self._pools[pool.key] = pool
            self._share()
            return pool

    def want(self, pool: Pool, wants: int, waiting: bool) -> None:
        """Says how many workers a pool has calls for, and whether any call waits for one."""
        if (wants, waiting) != (pool.wants, pool.waiting):
            with self.changed:
                pool.wants, pool.waiting = wants, waiting
                self._share()

    def grow(self, pool: Pool, avoid: Set[str] = frozenset()) -> WorkerProcess | None:
        """A worker more for a pool: a spare, or one that is starting; None where it may not have one now.

        It is on a machine to `avoid` only where no other has room.
        """
        if len(pool.workers) >= pool.grant:
            return None
        with self.changed:
            free = self._free()
            elsewhere = {name: room for name, room in free.items() if name not in avoid}
            return self._grow_within(pool, elsewhere) or (self._grow_within(pool, free) if elsewhere != free else None)

    def _grow_within(self, pool: Pool, free: dict[str, Machine]) -> WorkerProcess | None:
        """A worker more for a pool within what is free of some machines."""
        for spare in self._spares:
            if (spare.layout.cpus, spare.layout.gpus) == (pool.layout.cpus, pool.layout.gpus) and fits(
                spare.layout, free.get(spare.machine)
            ):
                self._spares.remove(spare)
                pool.workers.add(spare)
                return spare
        now = time.monotonic()
        good = {name: room for name, room in free.items() if self._failures.get(name, (0, 0.0))[1] <= now}
        machine = machine_for(pool.asks, good)
        if machine is None:
            return None
        self._make_room(machine, pool.layout)
        worker = self.start(machine, pool.layout)
        pool.workers.add(worker)
        return worker

    def start(self, machine: str, layout: Layout) -> WorkerProcess:
        """Starts a worker on a machine."""
        here = {NODE_LABEL: machine}
        actor = self._actor.options(num_cpus=layout.cpus, num_gpus=layout.gpus, label_selector=here)
        return WorkerProcess(actor.remote(layout.cpus), machine, layout, time.monotonic())

    def keeps(self, pool: Pool, worker: WorkerProcess) -> bool:
        """Whether an idle worker may take another call of its pool. Without a lock: this is asked for every call."""
        return len(pool.workers) <= pool.grant and worker.machine not in self._full and worker.machine in self._machines

    def gone(self, worker: WorkerProcess) -> bool:
        """Whether a worker's machine has left, or it has been starting for too long."""
        if worker.machine not in self._machines:
            return True
        return worker.where is None and time.monotonic() - worker.since > PENDING_SECONDS

    def release(self, pool: Pool, worker: WorkerProcess) -> None:
        """A pool needs an idle worker no longer, or may not have it: it becomes a spare."""
        with self.changed:
            pool.workers.discard(worker)
            worker.since = time.monotonic()
            self._spares.append(worker)
            self._share()

    def drop(self, pool: Pool, worker: WorkerProcess) -> None:
        """Ends a worker of a pool."""
        import ray

        ray.kill(worker.handle)
        with self.changed:
            pool.workers.discard(worker)
            self._share()

    def close_pool(self, pool: Pool) -> None:
        """Ends a pool and the workers that it still has."""
        import ray

        with self.changed:
            del self._pools[pool.key]
            for worker in pool.workers:
                ray.kill(worker.handle)
            self._share()

    # Gangs.

    def open_gang(self, claim: Claim, ranks: int, least: int | None) -> Gang:
        """A gang without a placement. Raises `ResourceError` where it would not fit if it were alone."""
        machines = [machine for machine in self._machines.values() if machine.cpus]
        if machines:
            layout_for_gang(machines, ranks, least)
        with self.changed:
            self._keys += 1
            gang = Gang(self._keys, claim, ranks, ranks if least is None else least, since=time.monotonic())
            self._gangs[gang.key] = gang
            self._share()
            return gang

    def begin(self, gang: Gang) -> Placement | None:
        """The placement of a gang once nobody else holds anything of it; None before."""
        with self.changed:
            if gang.placement is None or any(name in self._full for name in gang.placement.ranks):
                return None
            for name, count in gang.placement.ranks.items():
                layout = gang.placement.layout
                self._make_room(name, Layout(1, count * layout.cpus, count * layout.gpus))
            gang.started = True
            gang.gpus = gang.placement.layout.gpus
            return gang.placement

    def leave(self, gang: Gang, avoid: frozenset[str] | None = None) -> None:
        """A gang gives its placement up and waits for another, best on other machines than those to `avoid`.

        An elastic gang of several ranks avoids none: Ray Train chooses its machines, whenever it grows or shrinks.
        """
        with self.changed:
            gang.placement, gang.started, gang.since = None, False, time.monotonic()
            if avoid is not None and gang.least == gang.ranks:
                gang.avoid = avoid
            self._share()

    def close_gang(self, gang: Gang) -> None:
        """A gang has ended."""
        with self.changed:
            del self._gangs[gang.key]
            self._share()

    # Starting.

    def started(self, worker: WorkerProcess, where: Location) -> None:
        """A worker has started."""
        worker.where = where
        self._failures.clear()

    def not_started(self, worker: WorkerProcess, error: BaseException) -> None:
        """A worker has died before its first call. Raises `ConnectError` where none will start."""
        now = time.monotonic()
        with self.changed:
            count, until = self._failures.get(worker.machine, (0, 0.0))
            embedded = self._connection.machine is not None
            if worker.machine in self._machines and now >= until:
                self._failures[worker.machine] = count + 1, now + (0.0 if embedded else ASIDE_SECONDS)
            failures = sum(count for count, _ in self._failures.values())
        if failures >= START_FAILURES:
            raise ConnectError(
                "a worker to start",
                f"{failures} in a row that did not: {' '.join(str(error).split())[:600]}",
                "Install the same version of the project on every machine of the cluster, and check their free memory.",
            ) from error

    # For people.

    def room_of(self, claimant: Pool | Gang) -> Room:
        """What a pool or gang has at the moment, and what it waits for."""
        with self.changed:
            if isinstance(claimant, Pool):
                hosts: dict[str, int] = {}
                for worker in claimant.workers:
                    if worker.where is not None:
                        hosts[worker.where.host] = hosts.get(worker.where.host, 0) + 1
                if hosts or not claimant.waiting:
                    return Room(hosts)
                if claimant.workers:
                    return Room({}, "workers to start")
                return Room({}, self._why(claimant))
            placement = claimant.placement
            if placement is not None:
                hosts = {self._host(name): count for name, count in placement.ranks.items()}
                return Room(hosts) if claimant.started else Room({}, f"parts that run on {', '.join(hosts)} to end")
            return Room({}, self._why(claimant))

    def close(self) -> None:
        """Ends all workers that are left."""
        import ray

        with self.changed:
            pools = [worker for pool in self._pools.values() for worker in pool.workers]
            for worker in [*self._spares, *pools]:
                ray.kill(worker.handle)
            for demand in self._demands:
                ray.kill(demand)
            self._spares, self._demands = [], []

    def _why(self, claimant: Pool | Gang) -> str:
        """Why somebody has no room."""
        if not any(machine.cpus for machine in self._machines.values()):
            return "a machine with a CPU to join the cluster"
        if isinstance(claimant, Gang) and layout_of(claimant.asks, self._machines) is None:
            return "machines that were lost to come back, or others to join"
        holders = [gang.claim for gang in self._gangs.values() if gang is not claimant and gang.placement is not None]
        holders += [pool.claim for pool in self._pools.values() if pool is not claimant and pool.workers]
        names = list(dict.fromkeys(claim.name for claim in holders if claim.name))
        if names:
            return f"room that is taken by {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}"
        return "CPUs or GPUs that other jobs hold"

    def _host(self, machine: str) -> str:
        return self._machines[machine].host if machine in self._machines else "a lost machine"

    # With the lock held.

    def _held(self, spares: bool) -> dict[str, tuple[int, int]]:
        """CPUs and GPUs of each machine that are ours: of workers and of gangs that have begun."""
        held: dict[str, tuple[int, int]] = {}
        workers = [worker for pool in self._pools.values() for worker in pool.workers]
        shapes = [(worker.machine, worker.layout.cpus, worker.layout.gpus) for worker in workers]
        if spares:
            shapes += [(worker.machine, worker.layout.cpus, worker.layout.gpus) for worker in self._spares]
            shapes += [
                (name, count * gang.placement.layout.cpus, count * gang.placement.layout.gpus)
                for gang in self._gangs.values()
                if gang.placement is not None and gang.started
                for name, count in gang.placement.ranks.items()
            ]
        for name, cpus, gpus in shapes:
            before = held.get(name, (0, 0))
            held[name] = before[0] + cpus, before[1] + gpus
        return held

    def _share(self) -> None:
        """Shares the room out anew."""
        rooms = self.rooms()
        working = [machine for machine in rooms.values() if machine.cpus]
        for pool in self._pools.values():
            if not pool.layout.cpus and working:
                pool.layout = layout_for_parts(working, self._workers, pool.gpu)
        pools = [pool.asks for pool in self._pools.values() if pool.layout.cpus]
        held = self._held(spares=False)
        busy = {name: cpus for name, (cpus, _) in held.items()}
        self._shares = share(rooms, pools, [gang.asks for gang in self._gangs.values()], busy, self._workers)
        for gang in self._gangs.values():
            gang.placement = self._shares.placements.get(gang.key)
        for pool in self._pools.values():
            pool.grant = self._shares.workers.get(pool.key, 0)
        left = self._left(rooms)
        self._full = frozenset(
            name
            for name, (cpus, gpus) in held.items()
            if name in left and (cpus > left[name].cpus or gpus > left[name].gpus)
        )
        self.changed.notify_all()

    def _left(self, rooms: Mapping[str, Machine]) -> dict[str, Machine]:
        """What the gangs leave of the machines."""
        left = dict(rooms)
        for placement in self._shares.placements.values():
            for name, count in placement.ranks.items():
                if name in left:
                    cpus = left[name].cpus - count * placement.layout.cpus
                    left[name] = replace(left[name], cpus=cpus, gpus=left[name].gpus - count * placement.layout.gpus)
        return left

    def _free(self) -> dict[str, Machine]:
        """What a new worker of a pool may take of each machine; spares make room for it."""
        free = self._left(self.rooms())
        for name, (cpus, gpus) in self._held(spares=False).items():
            if name in free:
                free[name] = replace(free[name], cpus=free[name].cpus - cpus, gpus=free[name].gpus - gpus)
        return free

    def _end_spare(self, spare: WorkerProcess) -> None:
        import ray

        self._spares.remove(spare)
        ray.kill(spare.handle)

    def _make_room(self, machine: str, layout: Layout) -> None:
        """Ends as many spares of a machine as a new worker or gang needs room."""
        room = self.rooms()[machine]
        for spare in [spare for spare in self._spares if spare.machine == machine]:
            cpus, gpus = self._held(spares=True).get(machine, (0, 0))
            if fits(layout, replace(room, cpus=room.cpus - cpus, gpus=room.gpus - gpus)):
                return
            self._end_spare(spare)

    def _demand(self) -> None:
        """Asks Ray for what there is no room for, where that has been so for a while and machines may join."""
        if self._connection.machine is not None:
            return
        import ray

        now, shapes = time.monotonic(), list[tuple[int, int]]()
        for gang in self._gangs.values():
            if gang.placement is None and now - gang.since > READ_SECONDS:
                layout = layout_of(gang.asks, self._machines) or Layout(1, 1, gang.gpus or 0)
                shapes += [(layout.cpus, layout.gpus)] * min(gang.ranks, DEMANDED)
        for pool in self._pools.values():
            if pool.waiting and pool.wants > pool.grant and now - pool.since > READ_SECONDS:
                layout = pool.layout if pool.layout.cpus else Layout(1, 1, 0)
                # As many again as there are, so that a cluster doubles until there is room for all.
                shapes += [(layout.cpus, layout.gpus)] * min(pool.wants - pool.grant, max(1, pool.grant))
        wanted = frozenset(self._machines), tuple(sorted(shapes)[:DEMANDED])
        if wanted == self._demanded:
            return
        for demand in self._demands:
            ray.kill(demand)
        self._demanded, self._demands = wanted, []
        elsewhere = {NODE_LABEL: f"!in({','.join(sorted(self._machines))})"}
        for cpus, gpus in wanted[1]:
            actor = self._demand_actor.options(num_cpus=cpus, num_gpus=gpus, label_selector=elsewhere)
            self._demands.append(actor.remote())


def fits(layout: Layout, room: Machine | None) -> bool:
    """Whether a worker fits into what is free of a machine."""
    return room is not None and layout.cpus <= room.cpus and layout.gpus <= room.gpus
