"""Files of a dataset that are not read: how many of each kind, and examples, so that none goes without a word."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

EXAMPLES = 3
"""Names that are kept of each kind."""

KINDS = 6
"""Kinds that a message names."""

HIDDEN = "hidden"
"""Kind of files and folders whose names begin with a dot."""

LEFTOVER = "left by a system"
"""Kind of those that an operating system or a tool leaves beside a person's own files; no message names them alone."""

SYSTEM = frozenset(
    {
        *("$recycle.bin", "desktop.ini", "ehthumbs.db", "recycler", "system volume information", "thumbs.db"),
        *("#recycle", "#snapshot", "@eadir", "@tmp", "@__thumb", "@recently-snapshot", "@recycle"),
        *("__macosx", "lost+found", "network trash folder", "temporary items", ".directory", ".localized", ".nomedia"),
    }
)
"""Names, in lower case, of what Windows, a Synology or a QNAP, macOS or Linux leaves."""

PREFIXES = (
    *("._", ".@__", ".appledouble", ".cache", ".ds_store", ".fseventsd", ".git", ".ipynb_checkpoints", ".spotlight"),
    *(".temporaryitems", ".thumb", ".trash"),
)
"""How, in lower case, the names of further leftovers begin."""


@dataclass
class PassedOver:
    """Counts by kind, which is the ending of the files or a word, and the first few names of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """One more."""
        self.merge({kind: 1}, {kind: [name]})

    def merge(self, counts: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> None:
        """Those of another."""
        self.counts.update(counts)
        for kind, names in examples.items():
            self.examples[kind] = [*self.examples.get(kind, []), *names][:EXAMPLES]

    def sentences(self) -> list[str]:
        """One sentence for a person; none where nothing but a system's leftovers was passed over."""
        if not self.counts.keys() - {LEFTOVER}:
            return []
        kinds = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        named = [f"{count} x {kind} ({', '.join(self.examples.get(kind, []))})" for kind, count in kinds[:KINDS]]
        more = f", and {len(kinds) - KINDS} more kinds" if len(kinds) > KINDS else ""
        return [f"{self.counts.total()} files or folders are not read, by kind: {', '.join(named)}{more}"]


def hidden(name: str) -> str | None:
    """The kind of a path below a dataset's folder that is hidden, or a system's leftover, or in such a folder."""
    pieces = name.lower().split("/")
    if any(piece in SYSTEM or piece.startswith(PREFIXES) for piece in pieces):
        return LEFTOVER
    return HIDDEN if any(piece.startswith(".") for piece in pieces) else None


def kind_of(name: str) -> str:
    """The ending in lower case; of a compressed archive both (`.tar.gz`)."""
    stem, ending = os.path.splitext(name.lower())
    return f".tar{ending}" if stem.endswith(".tar") else ending or "no ending"
