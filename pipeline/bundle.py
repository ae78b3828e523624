"""A finished study as one tar: a store with that study alone, for `tar x` and `repscope.open`.

It holds the committed objects of each step, each compared with its manifest on the way, a pointer whose folders are
relative, a card and `SHA256SUMS`, which `sha256sum -c` reads.
"""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.store import open_store
from pipeline.studies import point

if TYPE_CHECKING:
    from pipeline.manifest import Ref
    from pipeline.reading import OpenStudy

CARD, SUMS = "CARD.md", "SHA256SUMS"
TOGETHER: Mapping[str, tuple[str, ...]] = {"decoder": ("decoder", "extension")}
"""Steps that are left out together, by what they begin with."""


def bundle(study: "OpenStudy", out: Path, without: Sequence[str] = (), licence: str | None = None) -> int:
    """Writes the tar and returns its bytes. `without` names steps, or what steps begin with, such as `decoder`.

    Raises `UsageError` where nothing is called so, or vectors would be left without their images' index, and
    `FormatError` where an object is damaged.
    """
    refs = dict(study.refs())
    for name in without:
        begins = TOGETHER.get(name, (name,))
        left_out = [step for step in refs if step in begins or step.startswith(tuple(f"{b}." for b in begins))]
        if not left_out or "shards" in left_out:
            known = ", ".join(dict.fromkeys(step.partition(".")[0] for step in refs if step != "shards"))
            raise UsageError(f"--without to name one of {known}", repr(name), "Correct it.")
        for step in left_out:
            del refs[step]
    sums: list[str] = []
    # Under another name until it is whole.
    part = out.with_name(f".{out.name}.part")
    try:
        with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:

            def add(name: str, data: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
                sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")

            add(CARD, _card(study, refs, licence))
            for name, data in _pointed(study.name, refs):
                add(name, data)
            for step in {ref.folder: step for step, ref in refs.items()}.values():
                for name, data in study.artifact(step).stored():
                    add(name, data)
            listed = "".join(sums).encode()
            add(SUMS, listed)
        part.rename(out)
    finally:
        part.unlink(missing_ok=True)
    return out.stat().st_size


def _pointed(study: str, refs: "Mapping[str, Ref]") -> Iterator[tuple[str, bytes]]:
    """What a store with this study alone has besides artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        store.prepare()
        point(store, study, "bundle", {step: ref.model_copy(update={"store": store.url}) for step, ref in refs.items()})
        for name in ("store.json", *(entry.name for entry in store.entries(f"studies/{study}"))):
            yield name, store.read(name)


def _card(study: "OpenStudy", refs: "Mapping[str, Ref]", licence: str | None) -> bytes:
    steps = "\n".join(f"| {step} | `{ref.folder}` |" for step, ref in refs.items())
    taps = "\n".join(f"- `{study[tap]!r}`" for tap in study.taps() if f"embeddings.{tap.partition(':')[0]}" in refs)
    return f"""# {study.name}

A finished study of Repscope. The folder that this tar unpacks to is a store: `repscope ls --store FOLDER`, or from
Python `repscope.open("FOLDER").study("{study.name}")`. `sha256sum -c {SUMS}` compares all files.

Licence: {licence or "not stated; those of the images and of the encoders' weights hold"}.

{taps}

| step | folder |
|---|---|
{steps}
""".encode()
