"""The command line: its commands, and what an error of one becomes. A command imports what it needs when it runs."""

import os
import signal
import sys
from typing import Any

import click

from pipeline import (
    explore_commands,
    export_commands,
    log_commands,
    plan_commands,
    query_commands,
    run_commands,
    store_commands,
    submit_commands,
)


class Commands(click.Group):
    """Turns every error into one message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error of ours is printed as one message, its exit code is that of its kind."""
        before = signal.signal(signal.SIGTERM, _terminated)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\nrepscope: stopped; what is finished is kept, the same command goes on.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # What is left in the buffers is not to fail once more when Python ends.
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            ctx.exit(141)
        except Exception as error:
            from pipeline.errors import exit_code, not_installed
            from stages.errors import without_credentials

            if isinstance(error, ImportError):
                error = not_installed(error) or error
            code = exit_code(error)
            if code == 1:
                raise
            click.echo(f"repscope: {without_credentials(str(error))}", err=True)
            ctx.exit(code)
        finally:
            signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="repscope")
def main() -> None:
    """Shows what a representation knows.

    A STUDY is a YAML file, or the name of a recipe that comes with Repscope (`repscope init --help` lists them).
    Exit codes: 0 done, 1 a mistake in Repscope, 2 wrong usage, 3 a step failed, 4 `status --check` found a step that
    is not up to date, 5 another run is busy, 6 `verify` found damage.
    """


for command in (
    *plan_commands.COMMANDS,
    *run_commands.COMMANDS,
    *log_commands.COMMANDS,
    *query_commands.COMMANDS,
    *export_commands.COMMANDS,
    *explore_commands.COMMANDS,
    *store_commands.COMMANDS,
    *submit_commands.COMMANDS,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
