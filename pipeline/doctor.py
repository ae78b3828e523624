"""Whether a cluster and a store are fit for runs: a row for each node, a sentence with the remedy for each fault."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.connect import asks_for_token, connect, dashboard, nodes
from cluster.jobs import node_name, on_every_node
from pipeline.node_checks import code_digest, facts_here
from pipeline.progress import size
from pipeline.store import Store

ANSWER_SECONDS = 120.0
"""How long a node may take to answer."""

CLOCK_SECONDS = 60.0
"""How far a clock may be off. Servers of S3 refuse requests at 15 minutes."""

COLUMNS = ("node", "python", "ray", "torch", "code", "CPUs", "GPUs", "shared memory", "clock", "store")


@dataclass(frozen=True)
class Diagnosis:
    """The table's rows (one per node, `COLUMNS`), remarks on the whole cluster, and the faults."""

    rows: list[tuple[str, ...]]
    remarks: list[str]
    faults: list[str]


@dataclass(frozen=True)
class Seen:
    """What a cluster has shown: the nodes' answers to `facts_here`, given between `begun` and `ended` (seconds)."""

    answers: Mapping[str, dict[str, Any] | Exception]
    resources: Mapping[str, Mapping[str, float]]
    """Of each node, as Ray counts them."""
    begun: float
    ended: float
    token_asked: bool
    dashboard: str
    """`host:port`; empty where there is none."""
    embedded: bool
    """Whether it is a Ray of this process, on loopback."""


def diagnose(address: str | None, store: Store) -> Diagnosis:
    """Asks every node of the cluster at `address`, or of an embedded Ray. Raises `ConnectError`, `StoreError`."""
    store.prepare()
    token = secrets.token_hex(8)
    marker, contested = f"probes/doctor-{token}", f"probes/doctor-{token}-contested"
    connection = connect(address)
    try:
        store.create(marker, b"")
        request = {"store": store.url, "marker": marker, "contested": contested}
        begun = time.time()
        answers = on_every_node(facts_here, request, ANSWER_SECONDS)
        seen = Seen(
            answers,
            {node_name(node): node["Resources"] for node in nodes() if node["Alive"]},
            begun,
            time.time(),
            asks_for_token(),
            dashboard(),
            embedded=address is None,
        )
    finally:
        connection.close()
        for name in (marker, contested):
            store.delete(name)
    return judged(seen, {"code": code_digest()} | _versions(), store.url)


def judged(seen: Seen, expected: Mapping[str, str], store: str) -> Diagnosis:
    """The diagnosis of a cluster that shall have the `expected` code and versions and use the store of that URL."""
    rows, faults = [], []
    for name, answer in sorted(seen.answers.items()):
        if isinstance(answer, Exception):
            last = (str(answer).strip().splitlines() or [type(answer).__name__])[-1]
            rows.append((name, *["-"] * (len(COLUMNS) - 1)))
            faults.append(f"{name}: the checks could not run: {last}. Install the same Repscope there.")
            continue
        offset, resources = _offset(answer, seen.begun, seen.ended), seen.resources.get(name, {})
        rows.append(_row(name, answer, resources, offset))
        faults += [f"{name}: {line}" for line in _faults(answer, expected, resources, offset, store)]
    usable = [answer for answer in seen.answers.values() if isinstance(answer, dict) and not answer["store"]]
    faults += _contest(usable, store) + _exposure(seen)
    remarks = [
        f"authentication: {'by token' if seen.token_asked else 'none'}",
        f"dashboard: {seen.dashboard or 'none'}",
    ]
    return Diagnosis(rows, remarks, faults)


def _exposure(seen: Seen) -> list[str]:
    """Who could run code on the cluster and should not."""
    if seen.token_asked or seen.embedded:
        return []
    faults = [
        "the cluster asks for no token: whoever reaches its ports runs code on it. "
        "Set RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN on every machine before `ray start`."
    ]
    host = seen.dashboard.rpartition(":")[0]
    if host and host not in ("127.0.0.1", "localhost", "[::1]"):
        faults.append(
            f"the dashboard, which runs any job, listens on {host}. Start the head with --dashboard-host 127.0.0.1, "
            "or with authentication."
        )
    return faults


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), "ray": version("ray"), "torch": version("torch")}


def _offset(facts: Mapping[str, Any], begun: float, ended: float) -> float:
    """Seconds that a node's clock is ahead: of the store's, or of this machine's where the store is out of reach."""
    if facts["offset"] is not None:
        return float(facts["offset"])
    return float(min(0.0, facts["time"] - begun) or max(0.0, facts["time"] - ended))


def _row(name: str, facts: Mapping[str, Any], counted: Mapping[str, float], offset: float) -> tuple[str, ...]:
    return (
        name,
        facts["python"],
        facts["ray"],
        facts["torch"],
        facts["code"][:12],
        f"{counted.get('CPU', 0):.0f}/{facts['cores']}",
        f"{counted.get('GPU', 0):.0f}/{facts['gpus']}",
        size(facts["shared_memory"]),
        f"{offset:+.1f} s",
        "no" if facts["store"] else "yes",
    )


def _faults(
    facts: Mapping[str, Any], expected: Mapping[str, str], counted: Mapping[str, float], offset: float, store: str
) -> list[str]:
    cpus, gpus = counted.get("CPU", 0), counted.get("GPU", 0)
    wanted = counted.get("object_store_memory", 0)
    checks: list[tuple[bool, Callable[[], str]]] = [
        (
            facts["code"] != expected["code"],
            lambda: (
                f"Repscope's code is another ({facts['code'][:12]}, here {expected['code'][:12]}). "
                "Install the same on every machine."
            ),
        ),
        *[
            (
                facts[what] != expected[what],
                lambda what=what: f"{what} {facts[what]}, here {expected[what]}. Install the same version.",
            )
            for what in ("python", "ray", "torch")
        ],
        (
            cpus > facts["cores"],
            lambda: f"Ray counts {cpus:.0f} CPUs, and its threads share {facts['cores']}. Give `ray start` --num-cpus.",
        ),
        (
            gpus != facts["gpus"],
            lambda: f"Ray counts {gpus:.0f} GPUs of {facts['gpus']}. Check the driver, or give `ray start` --num-gpus.",
        ),
        (
            facts["shared_memory"] < wanted,
            lambda: (
                f"{size(facts['shared_memory'])} of shared memory, and Ray wants {size(int(wanted))}. "
                "Give the container more (--shm-size), or `ray start` less (--object-store-memory)."
            ),
        ),
        (
            abs(offset) > CLOCK_SECONDS,
            lambda: f"the clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}. Set it by NTP.",
        ),
        (
            bool(facts["store"]),
            lambda: (
                f"the store {store} cannot be used: {facts['store'].rstrip('.')}. "
                "Name one that every machine reaches, with credentials on every machine."
            ),
        ),
    ]
    return [text() for wrong, text in checks if wrong]


def _contest(answers: list[Any], store: str) -> list[str]:
    """Of the nodes that created one object at once, exactly one may have done it, and all must read what it wrote."""
    winners, created = {facts["winner"] for facts in answers}, sum(facts["created"] for facts in answers)
    if not answers or (len(winners) == 1 and created == 1):
        return []
    return [
        f"{created} nodes created one object in {store}, and {len(winners)} contents were read. "
        "Two runs could overwrite each other: use a store with conditional writes, or one folder that all share."
    ]
