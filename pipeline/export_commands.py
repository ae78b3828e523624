"""Commands that carry vectors out of a store and into one: `export` and `adopt`. Registered in `pipeline.cli`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.options import STORE, STUDY, OutFile

if TYPE_CHECKING:
    from stages.embeddings.export import Kind

KINDS = ("parquet", "npy", "faiss", "anndata", "atlas")


@click.command()
@STUDY
@click.argument("tap", metavar="[ENCODER:TAP]", required=False)
@STORE
@click.option("--to", type=click.Choice(KINDS), help="What to write.")
@click.option("--out", type=click.Path(path_type=Path), help="File, for npy a folder [default: named after the tap].")
@click.option("--view", default="plain", show_default=True, help="Which view's vectors: plain or flip.")
@click.option("--where", help="A condition in SQL over the columns of `rows`.")
@click.option("--images", is_flag=True, help="Add the images as they are stored.")
@click.option(
    "--bundle",
    type=OutFile(),
    help="In place of a tap: the whole study as this tar, which unpacks to a store.",
)
@click.option("--without", multiple=True, metavar="STEP", help="With --bundle: leave these steps out, e.g. decoder.")
@click.option("--licence", help="What the card says of the licence.")
def export(
    study: str,
    tap: str | None,
    root: str,
    to: "Kind | None",
    out: Path | None,
    view: str,
    where: str | None,
    images: bool,
    bundle: Path | None,
    without: tuple[str, ...],
    licence: str | None,
) -> None:
    """Write the embeddings of a finished STUDY for other tools, or all of it as one tar.

    npy has the layout of clip-retrieval, faiss is a flat L2 index whose ids are rows, anndata an .h5ad, atlas a Parquet
    file for Embedding Atlas with thumbnails and a map. Each has keys and labels.
    """
    from pipeline.errors import UsageError
    from pipeline.opening import opened_study

    if bundle is not None:
        if tap is not None or to is not None:
            raise UsageError("a tap with --to, or --bundle", "both", "Ask for one at a time.")
        from pipeline.bundle import bundle as write_bundle
        from pipeline.progress import size

        _free(bundle)
        click.echo(f"{bundle}: {size(write_bundle(opened_study(study, root), bundle, without, licence))}")
        return
    if tap is None or to is None or without:
        found = "--without" if without else "no tap" if tap is None else "no --to"
        raise UsageError("a tap and --to, or --bundle FILE", found, "Name both, for example simclr:backbone --to npy.")
    from stages.embeddings import card
    from stages.embeddings.export import ENDINGS
    from stages.embeddings.export import export as write

    opened = opened_study(study, root)
    table = opened[tap]
    encoder, _, own = tap.partition(":")
    target = out or Path(f"{opened.name}-{encoder}-{own}{ENDINGS[to]}")
    _free(target)
    if to != "npy" and not target.parent.is_dir():
        raise UsageError("a file in a folder that is there", f"no folder {target.parent}", "Make it, or correct --out.")
    named = {"study": opened.name, "step": f"embeddings.{encoder}", "encoder": encoder, "tap": own}
    about = card.read(opened.artifact(named["step"])) | named | {"view": view}
    count = write(table, to, target, named, about | ({"licence": licence} if licence else {}), view, where, images)
    click.echo(f"{target}: {count} x {table.width} {table.dtype}")
    if to == "atlas":
        click.echo(f"embedding-atlas {target} --x map_x --y map_y --image image")


@click.command()
@STUDY
@click.argument("name")
@click.argument("vectors")
@STORE
@click.option("--rows", help="CSV or Parquet with a row for each vector [default: the Parquet file of the vectors].")
@click.option(
    "--on", type=click.Choice(("key", "file_name")), default="key", show_default=True, help="How a row names its image."
)
@click.option("--column", default="embedding", show_default=True, help="Column of the vectors in a Parquet file.")
@click.option("--tap", default="embedding", show_default=True, help="What the tap is called.")
@click.option(
    "--missing",
    type=click.Choice(("error", "null")),
    default="error",
    show_default=True,
    help="Where an image has no vector: refuse, or leave it without one.",
)
def adopt(
    study: str, name: str, vectors: str, root: str, rows: str | None, on: str, column: str, tap: str, missing: str
) -> None:
    """Make VECTORS (.npy or Parquet) of a finished STUDY's images its tap NAME:TAP, for reading.

    The file of --rows says which image each vector is of, by key or by file name.
    """
    from pipeline.adopt import adopt as adopt_vectors
    from pipeline.reading import open
    from pipeline.store import open_store
    from pipeline.study import load
    from stages.embeddings.adopted import Adopted

    fields = {"vectors": vectors, "rows": rows, "on": on, "column": column, "tap": tap, "missing": missing}
    read, store = load(study), open_store(root)
    adopt_vectors(read, store, name, Adopted.model_validate(fields))
    click.echo(repr(open(root).study(read.study)[f"{name}:{tap}"]))


COMMANDS = (export, adopt)


def _free(path: Path) -> None:
    from pipeline.errors import UsageError

    if path.exists():
        raise UsageError(f"{path} not to exist", "it does", "Name another with --out, or remove it.")
