"""A study and its store as commands open them."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.reading import OpenStudy
    from pipeline.step import Step
    from pipeline.store import Store
    from pipeline.study import Study


def opened_graph(study: str, root: str) -> "tuple[Study, list[Step], Store]":
    """A study by its file or as a recipe, its steps, and the store that `root` names."""
    from pipeline.graph import graph_of
    from pipeline.store import open_store
    from pipeline.study import load

    read = load(study)
    return read, graph_of(read), open_store(root)


def opened_study(study: "str | Study", root: str) -> "OpenStudy":
    """A study by its name in the store, or by its file; where that is not its newest run, the user is notified."""
    from pipeline.errors import UsageError
    from pipeline.reading import open_study
    from pipeline.store import open_store

    store = open_store(root)
    if not store.recognise():
        raise UsageError(f"a store at {store.url}", "none", "Name the folder or URL of `--store`.")
    opened = open_study(study, store)
    if opened.notice:
        click.echo(f"repscope: {opened.notice}", err=True)
    return opened
