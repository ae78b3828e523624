"""Who works where, from tables: machines, pools and gangs to workers and places."""

from dataclasses import replace

import pytest

from cluster.resources import Layout, Machine
from cluster.shares import GangClaim, Placement, PoolClaim, machine_for, share

GB = 1024**3


def machines(*cpus: int, gpus: int = 0) -> dict[str, Machine]:
    """Machines a, b, … with so many CPUs and, each, so many GPUs."""
    return {chr(ord("a") + i): Machine(count, gpus, 64 * GB) for i, count in enumerate(cpus)}


def pool(key: int, wants: int = 100, cpus: int = 1, gpus: int = 0, waiting: bool = True) -> PoolClaim:
    """A pool that comes after those with lower keys."""
    return PoolClaim(key, key, wants, cpus, gpus, waiting)


def gang(
    key: int, ranks: int = 1, least: int | None = None, gpus: int | None = None, placement: Placement | None = None
) -> GangClaim:
    """A gang; with a place it has begun there."""
    return GangClaim(key, key, ranks, ranks if least is None else least, gpus, placement, started=placement is not None)


@pytest.mark.parametrize(
    ("cpus", "pools", "workers", "granted"),
    [
        ([4], [pool(1)], None, {1: 4}),
        ([4], [pool(1), pool(2)], None, {1: 2, 2: 2}),
        # What cannot be shared evenly goes to the first.
        ([5], [pool(1), pool(2)], None, {1: 3, 2: 2}),
        ([2], [pool(1), pool(2), pool(3)], None, {1: 1, 2: 1, 3: 0}),
        # Who wants little leaves the others more.
        ([6], [pool(1), pool(2, wants=1)], None, {1: 5, 2: 1}),
        ([6], [pool(1, wants=0), pool(2)], None, {1: 0, 2: 6}),
        ([3, 3], [pool(1), pool(2)], None, {1: 3, 2: 3}),
        # A wide worker needs its CPUs on one machine.
        ([3, 3], [pool(1, cpus=2)], None, {1: 2}),
        ([0, 3], [pool(1)], None, {1: 3}),
        ([0], [pool(1)], None, {1: 0}),
        ([8], [pool(1), pool(2)], 3, {1: 2, 2: 1}),
    ],
)
def test_pools_share_evenly_and_in_their_order(
    cpus: list[int], pools: list[PoolClaim], workers: int | None, granted: dict[int, int]
) -> None:
    assert share(machines(*cpus), pools, [], {}, workers).workers == granted


def test_workers_with_a_gpu_come_before_those_without_and_these_start_where_there_is_none() -> None:
    there = machines(8, gpus=2) | {"z": Machine(4, 0, 64 * GB)}
    assert share(there, [pool(1), pool(2, cpus=4, gpus=1)], [], {}).workers == {1: 4, 2: 2}
    assert machine_for(pool(1), there) == "z"
    assert machine_for(pool(2, cpus=4, gpus=1), there) == "a"


@pytest.mark.parametrize(
    ("free", "machine"),
    [({"a": 1, "b": 3}, "b"), ({"a": 2, "b": 2}, "a"), ({"a": 0, "b": 0}, None), ({}, None)],
)
def test_a_worker_starts_where_most_is_free(free: dict[str, int], machine: str | None) -> None:
    assert machine_for(pool(1), {name: Machine(cpus, 0, GB) for name, cpus in free.items()}) == machine


@pytest.mark.parametrize(
    ("cpus", "busy", "where"),
    [
        # A whole machine, and of equal ones that which is drained first.
        ([3, 3], {"a": 3, "b": 1}, ("b", 3)),
        ([3, 3], {}, ("a", 3)),
        # Half the CPUs at once are better than all of them later.
        ([4, 3], {"a": 4}, ("b", 3)),
        ([8, 3], {"a": 8}, ("a", 8)),
        ([0, 2, 2], {}, ("b", 2)),
    ],
)
def test_a_gang_of_one_has_the_machine_that_is_drained_first(
    cpus: list[int], busy: dict[str, int], where: tuple[str, int]
) -> None:
    found = share(machines(*cpus), [pool(1)], [gang(2)], busy)
    name, width = where
    assert found.placements == {2: Placement(Layout(1, width, 0), {name: 1})}
    assert found.workers == {1: sum(cpus) - width}


def test_a_gang_leaves_parts_that_wait_the_last_machine_and_takes_it_when_none_wait() -> None:
    assert share(machines(2), [pool(1)], [gang(2)], {"a": 2}).placements == {}
    assert share(machines(2), [pool(1, wants=1, waiting=False)], [gang(2)], {"a": 1}).placements.keys() == {2}
    found = share(machines(2, 2), [pool(1)], [gang(2), gang(3)], {})
    assert (set(found.placements), found.workers) == ({2}, {1: 2})
    found = share(machines(2, 2), [], [gang(2), gang(3), gang(4)], {})
    assert [set(placement.ranks) for placement in found.placements.values()] == [{"a"}, {"b"}]


def test_a_gang_that_waits_for_parts_to_end_moves_to_a_machine_that_has_fewer() -> None:
    first = Placement(Layout(1, 2, 0), {"a": 1})
    waits = GangClaim(9, 9, 1, 1, None, first, started=False)
    moved = share(machines(2, 2), [pool(1), pool(2)], [waits], {"a": 2, "b": 0}).placements[9]
    assert moved.ranks == {"b": 1}
    # To one that is as busy it does not.
    assert share(machines(2, 2), [pool(1)], [waits], {"a": 2, "b": 2}).placements[9].ranks == {"a": 1}
    begun = GangClaim(9, 9, 1, 1, None, first, started=True)
    assert share(machines(2, 2), [pool(1)], [begun], {"a": 2, "b": 0}).placements[9].ranks == {"a": 1}


def test_parts_wait_while_gangs_have_all_machines() -> None:
    begun = Placement(Layout(1, 2, 0), {"a": 1})
    assert share(machines(2), [pool(1)], [gang(2, placement=begun)], {}).workers == {1: 0}


def test_a_gang_that_has_begun_stays_and_one_that_waits_is_moved_from_a_lost_machine() -> None:
    placement = Placement(Layout(1, 3, 0), {"b": 1})
    begun = gang(1, placement=placement)
    assert share(machines(3), [], [begun], {}).placements == {1: placement}
    waiting = GangClaim(1, 1, 1, 1, None, placement, started=False)
    assert share(machines(3, 3), [], [waiting], {}).placements == {1: placement}
    assert share(machines(3), [], [waiting], {}).placements == {1: Placement(Layout(1, 3, 0), {"a": 1})}


@pytest.mark.parametrize(
    ("cpus", "ranks", "least", "placement"),
    [
        ([3, 3], 2, None, Placement(Layout(2, 3, 0), {"a": 1, "b": 1})),
        ([4], 2, None, Placement(Layout(2, 2, 0), {"a": 2})),
        ([4], 8, 1, Placement(Layout(4, 1, 0), {"a": 4})),
        ([2, 2, 2], 2, None, Placement(Layout(2, 2, 0), {"a": 1, "b": 1})),
        ([1], 8, 1, Placement(Layout(1, 1, 0), {"a": 1})),
        ([2, 1], 8, 2, Placement(Layout(3, 1, 0), {"a": 2, "b": 1})),
        # Too few are left: it waits for those that were lost.
        ([1], 2, None, None),
        ([], 2, None, None),
    ],
)
def test_the_ranks_of_a_gang_get_their_room_in_one_piece(
    cpus: list[int], ranks: int, least: int | None, placement: Placement | None
) -> None:
    found = share(machines(*cpus), [], [gang(1, ranks, least)], {}).placements.get(1)
    assert found == placement


def test_ranks_wait_for_most_of_a_cluster_that_another_gang_has() -> None:
    other = Placement(Layout(1, 3, 0), {"a": 1})
    found = share(machines(3, 3), [], [gang(1, placement=other), gang(2, ranks=2)], {})
    assert found.placements == {1: other}


@pytest.mark.parametrize(
    ("cpus", "gangs", "rounds"),
    [
        # Both want all there is, fixed or elastic: one after the other has it whole.
        ([2], [gang(1, 2), gang(2, 2)], [{1}, {2}]),
        ([2, 2], [gang(1, 4), gang(2, 4)], [{1}, {2}]),
        ([2, 2], [gang(1, 4, least=1), gang(2, 4, least=2)], [{1}, {2}]),
        ([2, 2], [gang(1, 4), gang(2, 4), gang(3, 4, least=1)], [{1}, {2}, {3}]),
        # A wide one does not keep those waiting that have room beside what is at work.
        ([2, 2], [gang(1, 1), gang(2, 4), gang(3, 1)], [{1, 3}, {2}]),
        # An elastic one takes half rather than wait for all.
        ([2, 2], [gang(1, 1), gang(2, 4, least=1)], [{1, 2}]),
        ([2, 1], [gang(1, 1), gang(2, 3, least=2)], [{1}, {2}]),
    ],
)
def test_gangs_that_have_no_room_beside_each_other_have_it_in_turn(
    cpus: list[int], gangs: list[GangClaim], rounds: list[set[int]]
) -> None:
    there = machines(*cpus)
    left = {one.key: one for one in gangs}
    for expected in rounds:
        # As an allocation does: those with room begin, and the others are asked about again and again meanwhile.
        for _ in range(3):
            placements = share(there, [], list(left.values()), {}).placements
            left |= {key: replace(left[key], placement=where, started=True) for key, where in placements.items()}
        assert placements.keys() == expected
        for name, machine in there.items():
            widths = [where.ranks.get(name, 0) * where.layout.cpus for where in placements.values()]
            assert sum(widths) <= machine.cpus
        left = {key: one for key, one in left.items() if key not in expected}
    assert not left


@pytest.mark.parametrize(
    ("cpus", "ranks", "avoid", "where"),
    [
        ([3, 3], 1, "a", {"b": 1}),
        ([2, 2, 2], 2, "ab", {"c": 2}),
        # Those to avoid have to do where others have too little room, or there are none.
        ([8, 3], 1, "a", {"a": 1}),
        ([2, 2], 4, "a", {"a": 2, "b": 2}),
        ([4], 2, "a", {"a": 2}),
    ],
)
def test_the_next_attempt_of_a_gang_is_elsewhere_where_others_have_room(
    cpus: list[int], ranks: int, avoid: str, where: dict[str, int]
) -> None:
    again = replace(gang(1, ranks), avoid=frozenset(avoid))
    assert share(machines(*cpus), [], [again], {}).placements[1].ranks == where


def test_a_gang_that_waits_on_a_machine_to_avoid_moves_once_another_is_free() -> None:
    claim = replace(gang(1), avoid=frozenset("a"), placement=Placement(Layout(1, 2, 0), {"a": 1}))
    assert share(machines(2), [], [claim], {}).placements[1].ranks == {"a": 1}
    assert share(machines(2, 2), [], [claim], {"b": 1}).placements[1].ranks == {"b": 1}


@pytest.mark.parametrize(
    ("gpus_before", "there", "width"),
    [
        (1, {"a": Machine(64, 0, GB)}, None),
        (1, {"a": Machine(64, 0, GB), "b": Machine(16, 1, GB)}, ("b", 16)),
        (0, {"a": Machine(16, 0, GB), "b": Machine(16, 4, GB)}, ("a", 16)),
        (None, {"a": Machine(64, 0, GB), "b": Machine(16, 1, GB)}, ("b", 16)),
    ],
)
def test_a_gang_has_gpus_where_there_are_any_and_waits_for_them_where_it_had_some(
    gpus_before: int | None, there: dict[str, Machine], width: tuple[str, int] | None
) -> None:
    found = share(there, [], [gang(1, gpus=gpus_before)], {}).placements.get(1)
    assert (None if found is None else (next(iter(found.ranks)), found.layout.cpus)) == width


def test_a_narrow_gang_leaves_the_rest_of_its_machine_to_parts() -> None:
    found = share(machines(7), [pool(1, waiting=False)], [gang(2, ranks=2)], {})
    assert found.placements == {2: Placement(Layout(2, 3, 0), {"a": 2})}
    assert found.workers == {1: 1}
