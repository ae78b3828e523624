"""What every node of a cluster must have: checked by a task on each node, before a submitted run and by the doctor.

This module imports nothing heavy and nothing of ours at its top, so that a node with other code says so itself.
"""

import hashlib
import importlib.util
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Any

ROOMS = ("pipeline", "stages", "cluster")


def code_digest() -> str:
    """sha256 (hex) of the files of Repscope's packages as they lie here, by their names and bytes."""
    top = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for path in code_files(top):
        total.update(f"{path.relative_to(top).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def code_files(top: Path) -> list[Path]:
    """The files of Repscope's packages below `top`, in order; no compiled ones and none of an editor's."""
    found = [path for room in ROOMS for path in (top / room).rglob("*") if path.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts and not path.name.startswith("."))


def facts_here(request: dict[str, Any]) -> dict[str, Any]:
    """What `repscope doctor` shows of this node. `store` is empty, or why the store cannot be used from here."""
    import platform
    from importlib.metadata import version

    memory = os.statvfs("/dev/shm")
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "ray": version("ray"),
        "torch": version("torch"),
        "code": code_digest(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": len([name for name in os.listdir("/dev") if re.fullmatch(r"nvidia[0-9]+", name)]),
        "shared_memory": memory.f_blocks * memory.f_frsize,
        "time": time.time(),
        "offset": None,
        "created": False,
        "winner": "",
        "store": "",
    }
    try:
        facts |= _use_of_store(request)
    # Other code may have other errors, and each is an answer.
    except Exception as error:
        facts["store"] = " ".join(str(error).split())
    return facts


def _use_of_store(request: dict[str, Any]) -> dict[str, Any]:
    """Reads the marker, creates an object that all nodes create, and compares this clock with the store's."""
    from pipeline.errors import MissingError
    from pipeline.store import open_store

    store = open_store(request["store"])
    try:
        store.read(request["marker"])
    except MissingError:
        return {"store": "what was written to it a moment ago from the machine of `repscope doctor` is not there"}
    content, created = store.create_or_read(request["contested"], secrets.token_hex(8).encode())
    name = f"probes/doctor-{secrets.token_hex(8)}"
    before = time.time()
    store.create_or_read(name, b"")
    after = time.time()
    try:
        # The time of an object may be in whole seconds.
        offset = (before + after) / 2 - store.head(name).modified
    finally:
        store.delete(name)
    return {"created": created, "winner": content.decode(), "offset": offset}


def missing_here(request: dict[str, Any]) -> list[str]:
    """What this node lacks for the run of `request`, as sentences; empty where nothing is missing."""
    if (found := code_digest()) != request["code"]:
        return [
            f"Repscope's code here is another ({found[:12]}, submitted with {request['code'][:12]}). "
            "Install the same code on every machine, or leave out --image-env, and the code travels with the run."
        ]
    problems = [
        f"no {path} here, which {what} names. Put it where every machine finds it, a bucket or a shared folder."
        for path, what in request["paths"].items()
        if not os.path.exists(path)
    ]
    problems += [
        f"no package {module} here, which builds an encoder. Install it on every machine, or name a .py file, "
        "which travels with the run."
        for module in request["modules"]
        if importlib.util.find_spec(module) is None
    ]
    return problems + _store_problems(request)


def _store_problems(request: dict[str, Any]) -> list[str]:
    from pipeline.errors import PipelineError
    from pipeline.store import open_store

    store = open_store(request["store"])
    unset = [name for name in request["credentials"] if name not in os.environ]
    remedy = (
        f"Set {', '.join(unset)} there before `ray start`, or pass them on with "
        f"{' '.join(f'--pass-env {name}' for name in unset)}."
    )
    if endpoints := [name for name in unset if "ENDPOINT" in name]:
        # Without it another server would be asked, which may even answer.
        return [f"{', '.join(endpoints)} is set only in the shell that submitted. {remedy}"]
    name = f"probes/node-{secrets.token_hex(8)}"
    try:
        if request["marker"] and store.read(request["marker"]) != request["code"].encode():
            return [f"another store at {request['store']}. Name one that every machine reaches: a bucket, or NFS."]
        store.create_or_read(name, socket.gethostname().encode())
        store.delete(name)
    except (PipelineError, OSError) as error:
        if request["marker"]:
            return [
                f"the store {request['store']} of the machine that submitted is not there. "
                "Name one that every machine reaches with --store: a bucket, or a folder on NFS."
            ]
        return [f"the store {request['store']} cannot be used: {error}{' ' + remedy if unset else ''}"]
    return []
