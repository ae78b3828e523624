"""The digest of a stage's code: has the code changed since an artifact was made?

It is taken over the syntax tree, without docstrings and comments, of the stage's module and of all that it imports
inside `stages` (and inside its own top-level package where a stage lives elsewhere), directly or not, and over the
files of other kinds that have the name of one of these modules (`page.html` and `page.css` beside `page.py`). Files are
parsed once: what was found is kept in a cache by path, size and times, but not for files changed in the last seconds,
whose times cannot tell the next change from this one.
"""

import ast
import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Any

from pipeline import cache
from stages.contract import Stage

CACHE = "code-1.json"
RACY_SECONDS = 2.0


@dataclass(frozen=True)
class _File:
    """Digest of one file's tree and the modules it may import, as dotted names."""

    digest: str
    imports: tuple[str, ...]


class Code:
    """Digests of stages' code, with what is known of each file. One per run: a digest is not taken twice."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = cache.load(CACHE)
        self._changed = False
        self._files: dict[Path, _File] = {}
        self._others: dict[Path, list[Path]] = {}
        self._digests: dict[str, str] = {}

    def digest(self, stage: type[Stage]) -> str:
        """The digest (hex) of a stage's code."""
        module = stage.__module__
        if module not in self._digests:
            self._digests[module] = self._digest(module, stage.imported_by_name)
        return self._digests[module]

    def save(self) -> None:
        """Keeps what was found for the next process."""
        if self._changed:
            cache.save(CACHE, self._known)
            self._changed = False

    def _digest(self, module: str, imported_by_name: Iterable[str]) -> str:
        roots = {"stages", module.partition(".")[0]}
        found: dict[str, str] = {}
        waiting = [module, *imported_by_name]
        while waiting:
            name = waiting.pop()
            path = _path(name)
            if name in found or path is None:
                continue
            file = self._file(path, name)
            found[name] = file.digest
            found |= {f"{name}{suffix}": digest for suffix, digest in self._beside(path).items()}
            for imported in file.imports:
                parents = imported.split(".")
                if parents[0] in roots:
                    waiting += [".".join(parents[:length]) for length in range(1, len(parents) + 1)]
        total = hashlib.sha256()
        for name, digest in sorted(found.items()):
            total.update(f"{name} {digest}\n".encode())
        return total.hexdigest()

    def _beside(self, path: Path) -> dict[str, str]:
        """Digests of the files that have a module's name and are no Python, such as its template, by their suffixes."""
        if path.parent not in self._others:
            self._others[path.parent] = [
                path.with_name(name)
                for name in os.listdir(path.parent)
                if "." in name and not name.startswith(".") and not name.endswith((".py", ".pyc", "~"))
            ]
        others = (other for other in self._others[path.parent] if other.stem == path.stem and other.is_file())
        return {other.suffix: hashlib.sha256(other.read_bytes()).hexdigest() for other in others}

    def _file(self, path: Path, module: str) -> _File:
        if path not in self._files:
            status = path.stat()
            stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, module]
            known = self._known.get(str(path))
            if known is not None and known["stamp"] == stamp:
                self._files[path] = _File(known["digest"], tuple(known["imports"]))
            else:
                file = _parse(path, module)
                self._files[path] = file
                if time.time() - max(status.st_mtime, status.st_ctime) > RACY_SECONDS:
                    self._known[str(path)] = {"stamp": stamp, "digest": file.digest, "imports": list(file.imports)}
                    self._changed = True
        return self._files[path]


def combined_code(digests: Iterable[str]) -> str:
    """The digest of what several codes have made together: that of the only one, else one that is no code's own."""
    distinct = sorted(set(digests))
    return distinct[0] if len(distinct) == 1 else hashlib.sha256("\n".join(distinct).encode()).hexdigest()


@cached
def _path(module: str) -> Path | None:
    """The source file of a module, found without importing it; None where there is none of that name."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return Path(loaded.__file__) if loaded.__file__ else None
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return Path(spec.origin) if spec and spec.origin and not rest else None
    for location in spec.submodule_search_locations:
        below = Path(location, *rest)
        for path in (below / "__init__.py", below.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _parse(path: Path, module: str) -> _File:
    tree = ast.parse(path.read_bytes())
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return _File(_tree_digest(tree), tuple(sorted(set(_imports(tree, package)))))


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """All modules that a tree may import; what a type checker alone imports does not run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from _imports(other, package)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            source = ".".join([*base, *([child.module] if child.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in child.names)
        else:
            yield from _imports(child, package)


def _tree_digest(tree: ast.Module) -> str:
    total = hashlib.sha256()
    for word in _words(tree):
        total.update(word.encode())
        total.update(b"\0")
    return total.hexdigest()


def _words(node: Any) -> Iterator[str]:
    """A tree as words: the same for every version of Python that knows its nodes, because empty fields are left out."""
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(value, list) and _has_docstring(node):
                value = value[1:]
            if value is None or value == [] or name in ("ctx", "kind", "type_comment"):
                continue
            yield name
            yield from _words(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for entry in node:
            yield from _words(entry)
        yield "]"
    else:
        yield repr(node)


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
