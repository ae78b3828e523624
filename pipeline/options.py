"""Options and arguments that several commands have."""

import click

STUDY = click.argument("study", metavar="STUDY")
STORE = click.option(
    "--store",
    "root",
    envvar="REPSCOPE_STORE",
    default="repscope-store",
    show_default=True,
    help="Folder or URL (s3://bucket/path) that holds the artifacts. Also REPSCOPE_STORE.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
