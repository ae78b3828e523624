"""What the explorer shows of a study: maps, neighbours, labels, small pictures, and samples where they are stored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stages import attributes
from stages.contract import Input
from stages.embeddings.neighbours import Rows, Vectors, random_pair
from stages.embeddings.query import ATTRIBUTES, SHOWN, TapTable
from stages.errors import InputError
from stages.explorer import projection
from stages.images.contact import mosaic
from stages.images.image_file import inspect
from stages.images.sets import SAMPLES, open_images
from stages.parquet import table_from
from stages.questions.format import RANKS, RESULTS, load_ranks, load_rows

if TYPE_CHECKING:
    import pyarrow as pa

NEIGHBOURS = 10
SIDE = 64
"""Longest side of a small picture, pixels."""
STEP = 16
"""Sides are multiples of it, so that no block of the encoding spans two pictures."""
COLUMNS = 32
SHEET = COLUMNS * COLUMNS
"""Pictures of a sheet."""
CLASSES = 1000
"""Classes that a label may have."""
PAINTED = 8
"""Samples of an image that are shown, at most."""
PLAIN = "plain"
HELDOUT = "heldout"
PCA, TSNE = "PCA", "t-SNE"
QUICK = 6_000
"""Vectors of which t-SNE is made unasked: it takes some 9 ms each."""
FAR = "Distances between far groups, and sizes of groups, mean nothing."


@dataclass(frozen=True)
class Sheets:
    """Pictures of `side` pixels in the order of their numbers: `COLUMNS` to a line, `SHEET` to a WebP."""

    side: int
    files: tuple[bytes, ...]


@dataclass(frozen=True)
class Label:
    """What is known of each image: `values` float64 [N], NaN where undefined; of a class they number `classes`."""

    name: str
    kind: str
    classes: tuple[str, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Map:
    """A projection: points float64 [N, 2], and a sentence on how it came about and what it shows."""

    name: str
    points: NDArray[np.float64]
    about: str


@dataclass(frozen=True)
class Kept:
    """What *kept* says of a label at a tap."""

    verdict: str
    value: float
    low: float
    high: float
    why: str


@dataclass(frozen=True)
class Samples:
    """Stored samples of a tap: those of image `points[i]` are the pictures `per_source` * i to the next."""

    points: Rows
    per_source: int
    sheets: Sheets


@dataclass(frozen=True)
class Tap:
    """One tap: `near` int64 [N, k] are images by number, `distances` are in units of random pairs."""

    id: str
    width: int
    maps: tuple[Map, ...]
    near: Rows
    distances: NDArray[np.float64]
    kept: Mapping[str, Kept]
    """By the name of a label."""
    samples: Samples | None
    ranks: NDArray[np.float64] | None
    """Median rank of an image among all held-out ones by distance to its samples, [N]; NaN where none are stored."""


@dataclass(frozen=True)
class Content:
    """Everything on the page; images are numbered from 0 in the order of `keys`."""

    study: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    """Sentences on what is left out."""
    keys: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[Label, ...]
    pictures: Sheets
    taps: tuple[Tap, ...]
    ranked: int
    """Images among which `ranks` are counted; 0 where there are none."""


class Study(Protocol):
    """What the explorer reads of a finished study."""

    name: str

    def taps(self) -> list[str]:
        """Every `encoder:tap` that has embeddings."""

    def tap(self, name: str) -> TapTable:
        """The table of one."""

    def steps(self) -> list[str]:
        """Names of the steps."""

    def artifact(self, step: str) -> Input:
        """The artifact of a step."""


def gather(
    study: Study,
    taps: Sequence[str] = (),
    limit: int = 5000,
    seed: int = 0,
    neighbour_maps: bool | None = None,
    report: Callable[[str], None] = lambda sentence: None,
) -> Content:
    """Reads a study: all taps or `taps`, `limit` held-out images at most, drawn with `seed`, the painted ones first.

    `neighbour_maps`: whether there is t-SNE; None: where all taps together have `QUICK` vectors or fewer.
    `report` is called with what is at work. InputError where a tap is unknown or fewer than three images can be shown.
    """
    tables = [study.tap(name) for name in taps or study.taps()]
    everything = tables[0].rows
    painted = _painted(study)
    rows, notes = _chosen(tables, painted, limit, seed)
    shown = everything.take(rows)
    shards = study.artifact("shards")
    labels = tuple(_labels(shards, shown, notes))
    report(f"{len(rows)} pictures")
    pictures = _pictures(shards, rows)
    kept, ranks, ranked = _answers(study, rows)
    found = []
    wanted = len(rows) * len(tables) <= QUICK if neighbour_maps is None else neighbour_maps
    if not wanted and neighbour_maps is None:
        about = f"{len(rows):,} images at {len(tables)} tap{'s' * (len(tables) != 1)}"
        notes.append(
            f"There is no t-SNE, which takes minutes for {about}: --tsne makes it, --points or --tap shows less."
        )
    for table in tables:
        report(f"{table.name}: neighbours and maps")
        vectors = table.numpy(rows)
        near, distances = projection.neighbours(vectors, min(NEIGHBOURS, len(rows) - 1))
        maps = list(_maps(vectors, near, seed, wanted))
        found.append(
            Tap(
                id=table.name,
                width=table.width,
                maps=tuple(maps),
                near=near,
                distances=distances / (random_pair(vectors, "l2") or 1.0),
                kept=_named(kept.get(table.name, {}), shards),
                samples=_samples(painted.get(table.name, ()), rows),
                ranks=ranks.get(table.name),
            )
        )
    if wanted and all(len(tap.maps) == 1 for tap in found):
        notes.append("There is no t-SNE: it needs scikit-learn (pip install 'repscope[run]') and ten different images.")
    facts = [
        ("study", study.name),
        ("images", f"{len(rows):,} held out"),
        ("taps", str(len(found))),
        ("distances", "Euclidean, in units of random pairs"),
    ]
    if count := len({int(point) for tap in found if tap.samples for point in tap.samples.points}):
        facts.append(("painted", f"{count:,} images"))
    return Content(
        study=study.name,
        facts=tuple(facts),
        notes=tuple(notes),
        keys=tuple(shown.column("key").to_pylist()),
        names=tuple(shown.column("name").to_pylist()),
        labels=labels,
        pictures=pictures,
        taps=tuple(found),
        ranked=ranked,
    )


def _chosen(
    tables: Sequence[TapTable], painted: "Mapping[str, Sequence[_Painted]]", limit: int, seed: int
) -> tuple[Rows, list[str]]:
    """Rows in rising order, and what is left out, as sentences."""
    splits = np.array(tables[0].rows.column("split").to_pylist())
    heldout = np.flatnonzero(splits == HELDOUT)
    rows = heldout
    for table in tables:
        rows = np.intersect1d(rows, table.where())
    notes = []
    if lost := len(heldout) - len(rows):
        notes.append(f"{lost:,} of {len(heldout):,} held-out images have no vector at some tap and are left out.")
    if len(rows) < 3:
        raise InputError("three held-out images or more", f"{len(rows)}", "Take a study that has held-out images.")
    if len(rows) > limit:
        sources = np.intersect1d(rows, [row for parts in painted.values() for part in parts for row in part.rows])
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(rows))
        drawn = rows[order][~np.isin(rows[order], sources)]
        kept = np.concatenate([sources, drawn])[:limit]
        first = f"the {min(len(sources), limit):,} painted ones and others " if len(sources) else ""
        notes.append(
            f"{len(kept):,} of {len(rows):,} held-out images are shown: {first}drawn at random (seed {seed}). "
            "Neighbours are those among the shown; --points N shows more."
        )
        rows = np.sort(kept)
    return rows, notes


def _maps(vectors: Vectors, near: Rows, seed: int, neighbour_maps: bool) -> Iterator[Map]:
    """t-SNE first, where it is wanted and can be had, then PCA."""
    count, k = near.shape
    points, shares = projection.principal(vectors, 2)

    def kept(points: NDArray[np.float64]) -> str:
        return f"Of an image's {k} nearest, {projection.preserved(near, points):.1f} are also nearest on this map."

    if neighbour_maps and count >= projection.LEAST and shares[0] > 0:
        try:
            spread = projection.tsne(vectors, seed)
            about = f"t-SNE of scikit-learn, perplexity {projection.perplexity(count):.3g}, seed {seed}"
            about += (
                f", of {projection.COMPONENTS} principal components" if vectors.shape[1] > projection.COMPONENTS else ""
            )
            yield Map(TSNE, spread, f"{about}. {kept(spread)} {FAR}")
        except ImportError:
            pass
    share = f"The first two principal components: {100 * shares.sum():.0f} % of the variance."
    yield Map(PCA, points, f"{share} {kept(points)}")


def _labels(shards: Input, shown: "pa.Table", notes: list[str]) -> Iterator[Label]:
    """The labels of the shown images; `notes` gets a sentence for each that cannot colour them."""
    import pyarrow as pa

    known = attributes.load(shards.read(ATTRIBUTES))
    columns = attributes.columns_of(known)
    kinds = {columns[attribute.name]: attribute.kind for attribute in known}
    for name in shown.column_names:
        column = shown.column(name)
        if name in SHOWN:
            continue
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            texts = column.cast(pa.string()).to_pylist()
            present = {text for text in texts if text is not None}
            order = next((a.classes for a in known if columns[a.name] == name), ())
            classes = [*(text for text in order if text in present), *sorted(present - set(order))]
            if len(classes) > CLASSES:
                notes.append(f"{name} is no colour: it has {len(classes):,} different values, above {CLASSES:,}.")
            elif classes:
                numbers = {text: float(number) for number, text in enumerate(classes)}
                values = np.array([numbers.get(text, np.nan) for text in texts])
                yield Label(name, "class", tuple(classes), values)
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values = np.asarray(column.cast(pa.float64()).fill_null(np.nan), dtype=np.float64)
            if np.isfinite(values).any():
                yield Label(name, kinds.get(name, "scalar"), (), values)


def _pictures(shards: Input, rows: Rows) -> Sheets:
    images = open_images(shards)
    sizes = images.table(("width", "height")).take(rows)
    longest = max(int(np.max(sizes.column(name))) for name in ("width", "height"))
    side = min(SIDE, -(-longest // STEP) * STEP)
    blocks = (rows[first : first + SHEET] for first in range(0, len(rows), SHEET))
    return Sheets(side, tuple(mosaic(images.decode(block, side), COLUMNS) for block in blocks))


@dataclass(frozen=True)
class _Painted:
    """Samples of one tap in one artifact: rows of the sources [P], and numbers of their samples [P, K]."""

    artifact: Input
    rows: Rows
    numbers: Rows


def _painted(study: Study) -> dict[str, list[_Painted]]:
    """By `encoder:tap`, the samples that were painted from the embeddings of images as they are."""
    found: dict[str, list[_Painted]] = {}
    for step in study.steps():
        # `samples.sources` is that of the decoder's own taps, `samples.sources.1` that of its first extension.
        if step.split(".")[:2] != ["samples", "sources"]:
            continue
        artifact = study.artifact(step)
        if SAMPLES not in artifact.names():
            continue  # `samples.sources.<encoder>`: samples, embedded
        table = table_from(artifact.read(SAMPLES))
        columns = {name: np.array(table.column(name).to_pylist()) for name in ("encoder", "tap", "source_row", "k")}
        plain = np.array([variant == PLAIN for variant in table.column("variant").to_pylist()])
        for tap_id in dict.fromkeys(zip(columns["encoder"], columns["tap"], strict=True)):
            own = np.flatnonzero(plain & (columns["encoder"] == tap_id[0]) & (columns["tap"] == tap_id[1]))
            order = own[np.lexsort((columns["k"][own], columns["source_row"][own]))]
            sources, counts = np.unique(columns["source_row"][order], return_counts=True)
            numbers = order.reshape(len(sources), counts[0])[:, :PAINTED]
            found.setdefault(":".join(tap_id), []).append(_Painted(artifact, sources.astype(np.int64), numbers))
    return found


def _samples(painted: "Sequence[_Painted]", rows: Rows) -> Samples | None:
    """The samples of the shown images; None where there are none."""
    for part in painted:
        shown = np.isin(part.rows, rows)
        numbers = part.numbers[shown]
        if not numbers.size:
            continue
        images = open_images(part.artifact)
        _, first = next(images.files(numbers[0, :1]))
        size = min(SIDE, inspect(first).width)
        flat = numbers.reshape(-1)
        blocks = (flat[first : first + SHEET] for first in range(0, len(flat), SHEET))
        sheets = Sheets(size, tuple(mosaic(images.decode(block, size), COLUMNS) for block in blocks))
        return Samples(np.searchsorted(rows, part.rows[shown]), numbers.shape[1], sheets)
    return None


def _answers(study: Study, rows: Rows) -> tuple[dict[str, dict[str, Kept]], dict[str, NDArray[np.float64]], int]:
    """By tap what *kept* says of attributes and median ranks of the shown images, and among how many they are."""
    kept: dict[str, dict[str, Kept]] = {}
    ranks: dict[str, NDArray[np.float64]] = {}
    ranked = 0
    for step in study.steps():
        artifact = study.artifact(step)
        names = artifact.names()
        if RESULTS in names:
            for row in load_rows(artifact.read(RESULTS)):
                if row.metric == "kept" and row.verdict:
                    found = Kept(row.verdict.lower(), row.value, row.low, row.high, row.why)
                    kept.setdefault(f"{row.encoder}:{row.tap}", {})[row.subject] = found
        if RANKS in names:
            for entry in load_ranks(artifact.read(RANKS)):
                if entry.subject == "samples":
                    own = np.full(len(rows), np.nan)
                    inside = np.isin(entry.sources, rows)
                    own[np.searchsorted(rows, entry.sources[inside])] = np.median(entry.ranks[inside], axis=1)
                    ranks[entry.tap_id], ranked = own, max(ranked, entry.gallery)
    return kept, ranks, ranked


def _named(kept: Mapping[str, Kept], shards: Input) -> dict[str, Kept]:
    """By the label that an attribute is called as in tables."""
    columns: dict[str, Any] = attributes.columns_of(attributes.load(shards.read(ATTRIBUTES)))
    return {columns[name]: found for name, found in kept.items() if name in columns}
