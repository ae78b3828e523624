"""What a stage is, and what it may touch: `Stage`, `Gang`, `Part`, `Input`, `Output`.

How to write a stage
--------------------
A stage is a frozen pydantic model. Its fields are its parameters and go into its key; its methods are its work.

    class Counting(Stage):
        name = "counting"                       # folder of its artifacts
        version = 1                             # raised by hand when the meaning of the output changes
        bitwise = True                          # equal inputs give equal bytes

        until: int
        batch: Annotated[int, Unkeyed("only speed")] = 64

        def split(self, inputs):                # pure, cheap: reads manifests and indexes only
            return [Part(index=i, fields={"start": i * 10}) for i in range(self.until // 10)]

        def work(self, part, state, inputs, out):     # idempotent, writes whole objects
            out.put(f"count-{part.index:05d}.json", json.dumps(part.fields).encode())
            return {"rows": 10}

        def merge(self, summaries, inputs, out):      # indexes and totals; `out.read` gives what the parts have put
            return {"rows": sum(s["rows"] for s in summaries)}

`setup` runs once per worker and its result is handed to `work` as `state`; it is given a GPU only where the stage says
`gpu = True`. A training stage derives from `Gang` and
implements `train`, which every rank runs. A stage never sees keys, generations, leases or the executor. Its module
imports nothing heavy at the top: heavy imports stand inside methods.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict

from stages.errors import without_credentials

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

Summary: TypeAlias = dict[str, Any]
"""A small JSON object: what a part or an artifact says about itself."""


class Settings(BaseModel):
    """Base of settings: frozen, an unknown field is an error, and no `repr` holds the credentials of a URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields as `repr` shows them."""
        for name, value in super().__repr_args__():
            yield name, without_credentials(value) if isinstance(value, str | dict) else value


@dataclass(frozen=True)
class Unkeyed:
    """Marks a field that cannot change the answer; it stays out of the key. `why` says why."""

    why: str


@dataclass(frozen=True)
class Added:
    """Marks a field added after version 1: left out of the key where it equals `when_absent`, so old keys stand."""

    when_absent: Any


@dataclass(frozen=True)
class Function:
    """Marks a field that names a function or class: `package.module:function`, or `path/to/file.py:function`.

    A path stays out of the key, which has the name; the file is in it by its sha256, as an `External` whose
    digest is "code". Keys had the path before, and an artifact that was made under such a key is still found.
    """


@dataclass(frozen=True)
class External:
    """Something outside the store that a stage reads, known to the key by a digest.

    `digest` is "listing" (relative paths and sizes), "content" (these and the sha256 of the bytes), "code" (the sha256
    of one local file of Python, which is sent along with a submitted run: `stages.external.code`) or the user's own
    string. `only`: the paths below `url` that count, or patterns of them with `*`; all where it is empty.
    """

    url: str
    digest: str = "listing"
    only: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether a path below `url` counts. A `*` stands for any letters but `/`."""
        return not self.only or path in self.only or any(_pattern(entry).fullmatch(path) for entry in self.only)


@cache
def _pattern(entry: str) -> re.Pattern[str]:
    return re.compile("[^/]*".join(map(re.escape, entry.split("*"))), re.DOTALL)


@dataclass(frozen=True)
class Estimate:
    """What a step is expected to cost: rows and bytes it writes, seconds of work on one CPU.

    Seconds are those of the machine that they were measured on (docs/understanding/performance.md); who plans scales
    them.
    """

    rows: int
    size_bytes: int
    cpu_seconds: float
    image_seconds: float | None = None
    """Of an encoder or a decoder: seconds of one CPU for one image to pass through its network; None for all else."""
    features: int | None = None
    """Of an encoder: widths of its taps together; None for all else."""
    size: int | None = None
    """Of a decoder: side of the images that it paints, pixels; None for all else."""
    image_bytes: float | None = None
    """Of a listing: bytes of one of its images in the mean; None for all else."""
    drawing_seconds: float = 0.0
    """Of a listing: seconds of one CPU to draw one of its images; 0 where they are read."""
    precision: Literal["bfloat16", "float32"] = "float32"
    """What its networks take most of the seconds in, on a device that is fast in bfloat16."""
    warnings: tuple[str, ...] = ()
    """Sentences on what the step would leave out."""


class Part(BaseModel):
    """One independent piece of a step. `fields` is what the stage needs to know which piece it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    fields: dict[str, Any] = {}


class Input(Protocol):
    """A committed artifact, read only. Names are relative to the artifact, with `/` between folders."""

    @property
    def key(self) -> str:
        """Full key of the artifact: recorded in what is made from it, never used to decide anything."""

    @property
    def summary(self) -> Summary:
        """What `merge` (or `train`) returned."""

    @property
    def far(self) -> bool:
        """Whether every answer takes its time, so that reading many objects at once is worth threads."""

    def names(self) -> Sequence[str]:
        """All object names, sorted."""

    def size(self, name: str) -> int:
        """Bytes of an object."""

    def read(self, name: str) -> bytes:
        """The whole object."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start`."""

    def zarr(self, folder: str) -> "ZarrStore":
        """The Zarr store that stands under `folder`, read only."""


Inputs: TypeAlias = Mapping[str, Input]

RECORDS = ("artifact.json", "manifest.json", "tombstone.json")
"""Objects of an artifact that the pipeline itself writes."""
FOLDERS = ("parts", "train")
"""Folders of an artifact that hold the pipeline's own: receipts of parts, checkpoints of a training."""


def is_reserved(name: str) -> bool:
    """Whether an object name is the pipeline's own, so that no stage may put an object under it."""
    return name in RECORDS or name.partition("/")[0] in FOLDERS


class Output(Protocol):
    """Where a part puts whole objects. Creating is the only way to write; what exists is adopted."""

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        """Creates the object and returns the bytes that are in the store under that name. No name `is_reserved`.

        Where the object exists already, it is adopted: for a bitwise stage its sha256 must be equal, else
        `ConflictError`; otherwise it is read back, handed to `check` (which raises `FormatError` where shape, dtype or
        row ids are wrong) and returned. A summary describes the returned bytes, not those that were handed in.
        """

    def read(self, name: str) -> bytes:
        """An object of the artifact in the making: what this output has put and, in `merge`, what the parts have put.

        Parts see nothing of each other, since nothing says which of them is done first.
        """


RESERVED = "state.json"
"""The file of a checkpoint that its keeper writes last: what says that the checkpoint is complete."""


class Checkpoint(Protocol):
    """One complete training checkpoint."""

    @property
    def name(self) -> str:
        """Tells it from all others of the training: two attempts may save one step, with other rounding."""

    @property
    def step(self) -> int:
        """Training step at which it was saved."""

    def read(self, name: str) -> bytes:
        """One of the files given to `save`."""


class Checkpoints(Protocol):
    """Training checkpoints of one gang step, over all attempts."""

    def latest(self) -> Checkpoint | None:
        """The highest complete step, or None."""

    def save(self, step: int, files: Mapping[str, bytes]) -> None:
        """Publishes a checkpoint (rank 0 only); the two newest of this attempt are kept. No file is `RESERVED`."""


class Context(Protocol):
    """What a rank of a gang knows of the others. With `world` > 1 torch.distributed is initialised."""

    @property
    def rank(self) -> int:
        """0 … world - 1."""

    @property
    def world(self) -> int:
        """Number of ranks."""

    @property
    def device(self) -> str:
        """Where this rank computes, for example `cpu` or `cuda:0`."""

    @property
    def checkpoints(self) -> Checkpoints:
        """Training checkpoints."""

    def report(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Progress and scalars, for people."""


class Stage(Settings):
    """A kind of work. See the module's docstring."""

    name: ClassVar[str]
    version: ClassVar[int]
    bitwise: ClassVar[bool]
    gpu: ClassVar[bool] = False
    """Whether parts compute on a GPU where there is one: then as many run at once as there are GPUs, otherwise as there
    are CPUs. The ranks of a `Gang` have GPUs in any case."""
    imported_by_name: ClassVar[tuple[str, ...]] = ()
    """Modules that the work imports with `importlib`. The digest of the stage's code covers them and what they import,
    as it covers all modules in import statements."""

    def import_path(self) -> str:
        """How a worker finds the class: `package.module:Class`, or `path/to/file.py:Class` of a file that `external`
        has as "code"."""
        cls = type(self)
        assert "." not in cls.__qualname__, f"{cls.__qualname__} must stand at the top of its module"
        return f"{cls.__module__}:{cls.__qualname__}"

    def external(self) -> Mapping[str, External]:
        """What the stage reads outside the store."""
        return {}

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost, from the estimates of the inputs."""
        raise NotImplementedError

    def refined(self, guess: Estimate, summary: Summary) -> Estimate:
        """What `guess` becomes once the step is done and has this summary: later steps are estimated from it."""
        return guess

    def split(self, inputs: Inputs) -> list[Part]:
        """The parts: pure, deterministic, cheap; reads only manifests and indexes."""
        return [Part(index=0)]

    def setup(self, inputs: Inputs, device: str) -> Any:
        """Runs once per worker; what it returns is handed to `work`. Without `gpu`, `device` is `cpu`."""
        return None

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Does one part: idempotent, writes whole objects, returns a small summary."""
        raise NotImplementedError

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes indexes and returns totals; runs when all parts are done, with their summaries in part order.

        `out.read` gives what the parts have put. It may run again after a crash and must then put the same. By default
        it writes nothing, and the summary is that of the only part, or empty where there are several.
        """
        return dict(summaries[0]) if len(summaries) == 1 else {}


class Gang(Stage):
    """A training stage: one `train`, run by every rank together."""

    max_ranks: ClassVar[int | None] = None
    """None: any number of ranks gives the same training. 1: it must run in one process."""

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains. Rank 0 writes objects; its summary counts."""
        raise NotImplementedError
