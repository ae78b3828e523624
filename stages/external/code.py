"""Files of code that a study names (`path/to/file.py:function`): found on any machine by their sha256.

A path means something on one machine, and a file may be changed. So a file is known by its sha256, which the driver
takes, and every process that runs it compares. It is looked for in the folder that travels with a submitted run, at the
paths that the study names today, and at the path that it had when something was made with it.
"""

import hashlib
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.errors import InputError
from stages.external.files import sha256_of

SUBMITTED = "repscope_submitted"
"""The folder of files of code that travel with a submitted run, below a folder of `sys.path` wherever that runs."""

_named: dict[str, str] = {}
_travelled: dict[str, str] = {}


def named(files: Mapping[str, str]) -> None:
    """Takes note of the files that the study names, path -> sha256, as the driver has found them."""
    _named.clear()
    _named.update(files)


def travelled(files: Mapping[str, str]) -> None:
    """Takes note of the files that travel with this run, path -> sha256: a path means the file that was sent."""
    _travelled.clear()
    _travelled.update(files)


def submitted_name(path: str, sha256: str) -> str:
    """The name of a file of code in a submitted run."""
    return f"{SUBMITTED}/{sha256[:16]}/{Path(path).name}"


def here(path: str) -> Path:
    """Where the file that a study names lies on the driver's machine. Raises InputError where there is none."""
    if path in _travelled:
        return found(path, _travelled[path])
    if not Path(path).is_file():
        raise InputError(f"a file of code at {path}", "none", "Correct the path in the study.")
    return Path(path)


def expected(path: str) -> str | None:
    """The sha256 of a file as the driver has found it; None where nobody has said."""
    return _named.get(path)


def found(path: str, sha256: str) -> Path:
    """The file of code with this sha256, which is or was at `path`. Raises InputError where it is nowhere here."""
    seen: dict[str, str] = {}
    for candidate in _candidates(path, sha256):
        if str(candidate) in seen:
            continue
        try:
            digest = sha256_of(candidate)
        except OSError as error:
            seen[str(candidate)] = error.strerror or type(error).__name__
            continue
        if digest == sha256:
            return candidate.absolute()
        seen[str(candidate)] = f"another file (sha256 {digest[:12]}…)"
    raise _changed(Path(path).name, sha256, "; ".join(f"{candidate}: {what}" for candidate, what in seen.items()))


def _changed(name: str, sha256: str, seen: str) -> InputError:
    return InputError(
        f"the file of code {name} with sha256 {sha256[:12]}… on {socket.gethostname()}",
        seen,
        "Bring that file back to its path. For other machines, `repscope submit` sends it along; or put it into a "
        "folder that every machine has. If it was changed during a run, run again.",
    )


def module(path: Path, sha256: str) -> ModuleType:
    """The module that a file of code holds; the file runs once in a process, and again only where it has changed.

    Raises InputError where the bytes are not those with this sha256, and whatever the code raises.
    """
    # Known by its text, so that it has one name on every machine.
    name = f"repscope_code_{sha256[:16]}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return known
    text = path.read_bytes()
    if (digest := hashlib.sha256(text).hexdigest()) != sha256:
        raise _changed(path.name, sha256, f"{path}: another file (sha256 {digest[:12]}…)")
    loaded = ModuleType(name)
    loaded.__file__ = str(path)
    # Registered before it runs, as Python itself does: dataclasses and pydantic look up their module.
    sys.modules[name] = loaded
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), loaded.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def member(location: str, sha256: str | None = None) -> Any:
    """What `path/to/file.py:name` names: in the file with this sha256, by default in the one that is there now.

    Raises InputError where the file is nowhere here, where its code fails, and where it has no such name.
    """
    path, _, name = location.rpartition(":")
    file = here(path) if sha256 is None else found(path, sha256)
    try:
        loaded = module(file, sha256 or sha256_of(file))
    except InputError:
        raise
    # The code is the user's own and may raise anything; written as a script it exits.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(
            f"to run the code in {path}", reason, "Correct it, or install what it imports wherever parts are worked on."
        ) from error
    if not hasattr(loaded, name):
        classes = [
            entry for entry, value in vars(loaded).items() if getattr(value, "__module__", "") == loaded.__name__
        ]
        raise InputError(f"{name} in {path}", ", ".join(classes) or "nothing of its own", "Correct the name.")
    return getattr(loaded, name)


def _candidates(path: str, sha256: str) -> Iterator[Path]:
    for entry in sys.path:
        yield from sorted(Path(entry, SUBMITTED, sha256[:16]).glob("*.py"))
    yield from (Path(other) for other, digest in _named.items() if digest == sha256)
    yield Path(path)
