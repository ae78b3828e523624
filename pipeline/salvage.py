"""What is intact of a damaged generation is carried over into the next, so that only what was lost is made again.

A generation stays a plain folder: objects are hard-linked or copied by the server, never referenced. A part is carried
over whole or not at all, because its objects may be of one attempt that no other repeats. Of a training whose files are
damaged, the newest intact checkpoint is carried over.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import ExistsError, MissingError, StoreError
from pipeline.manifest import (
    Head,
    Object,
    Tombstone,
    folder_of,
    read_receipt,
    read_record,
    receipt_name,
    write_record,
)
from pipeline.store import Store
from pipeline.verify import Checkpoint, checkpoints, problem_of
from stages.contract import RESERVED

AT_ONCE = 4
"""How many parts are checked and copied together."""


def salvage(store: Store, head: Head, number: int, accept_drift: bool) -> None:
    """Carries what is intact of the generation before `number` over into `number`, where that was closed as damaged.

    `head` is that of the new generation. Nothing is carried over that was made from other inputs, or by other code
    without `accept_drift`. It may be called again: what is there already is left alone.
    """
    if number == 0:
        return
    before = folder_of(head.stage, head.key, number - 1)
    try:
        tombstone = read_record(store, f"{before}/tombstone.json", Tombstone)
        old = read_record(store, f"{before}/artifact.json", Head)
    except StoreError:
        return
    code = None if accept_drift else head.code
    if not tombstone.damaged or old.inputs != head.inputs or old.parts != head.parts or code not in (None, old.code):
        return
    folder = folder_of(head.stage, head.key, number)
    there = {entry.name[len(folder) + 1 :] for entry in store.entries(folder)}
    lacking = [part for part in range(head.parts) if receipt_name(part) not in there]
    with ThreadPoolExecutor(AT_ONCE, "salvage") as threads:
        carried = list(threads.map(lambda part: _part(store, before, folder, part, code), lacking))
    if not all(carried) and not any("/step-" in name for name in there):
        _checkpoint(store, before, folder)


def _part(store: Store, before: str, folder: str, part: int, code: str | None) -> bool:
    """Carries a part over, if it is intact and made by `code` (None: by any); whether it is there now."""
    try:
        receipt = read_receipt(store, before, part)
    except StoreError:
        return False
    if receipt is None or code not in (None, receipt.code) or not _carry(store, before, folder, receipt.objects):
        return False
    write_record(store, f"{folder}/{receipt_name(part)}", receipt)
    return True


def _checkpoint(store: Store, before: str, folder: str) -> None:
    """Carries over the newest checkpoint of a training that is intact."""
    for found in checkpoints(store, before):
        if found.complete and _carry(store, before, folder, _objects(store, before, found)):
            return


def _objects(store: Store, before: str, found: Checkpoint) -> dict[str, Object]:
    """The objects of a checkpoint by name, that which completes it last."""
    state = f"{found.folder}/{RESERVED}"
    data = store.read(f"{before}/{state}")
    return {f"{found.folder}/{name}": entry for name, entry in found.objects.items()} | {state: Object.of(data)}


def _carry(store: Store, before: str, folder: str, objects: Mapping[str, Object]) -> bool:
    """Carries objects over in their order; whether all are intact, and are now in the new generation."""
    if any(problem_of(store, f"{before}/{name}", expected) for name, expected in objects.items()):
        return False
    for name, expected in objects.items():
        try:
            store.copy(f"{before}/{name}", f"{folder}/{name}")
        except ExistsError:
            # Taken by another run, or by this one before: only equal bytes are of the same attempt.
            if problem_of(store, f"{folder}/{name}", expected):
                return False
        except MissingError:
            return False
    return True
