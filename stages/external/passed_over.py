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
"""Kind of files and folders whose names begin with a dot, and of those that an operating system leaves behind."""

SYSTEM = frozenset({"$recycle.bin", "@eadir", "__macosx", "lost+found", "system volume information", "thumbs.db"})
"""Names, in lower case, of what a Synology, Windows, macOS or Linux leaves beside a person's own files."""


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
        """One sentence for a person; none where nothing but hidden files was passed over."""
        if not self.counts.keys() - {HIDDEN}:
            return []
        kinds = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        named = [f"{count} x {kind} ({', '.join(self.examples.get(kind, []))})" for kind, count in kinds[:KINDS]]
        more = f", and {len(kinds) - KINDS} more kinds" if len(kinds) > KINDS else ""
        return [f"{self.counts.total()} files or folders are not read, by kind: {', '.join(named)}{more}"]


def hidden(name: str) -> bool:
    """Whether a path below a dataset's folder is of a hidden file, in a hidden folder, or of a system's own."""
    return any(piece.startswith(".") or piece.lower() in SYSTEM for piece in name.split("/"))


def kind_of(name: str) -> str:
    """The ending in lower case; of a compressed archive both (`.tar.gz`)."""
    stem, ending = os.path.splitext(name.lower())
    return f".tar{ending}" if stem.endswith(".tar") else ending or "no ending"
