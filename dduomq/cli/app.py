"""The `dduomq` command: its sub-commands, and how it ends.

Exit codes: 0 done, 1 the broker or the network said no, 2 the command was wrong, 130 Ctrl-C. Always true: a
failure is one line on standard error; a closed pipe and Ctrl-C end it without a word.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from dduomq import __version__
from dduomq.cli import cluster, consume, delay, dlq, group, produce, schedule, topic
from dduomq.errors import (
    ConfigError,
    DduomqError,
    InvalidConfig,
    InvalidDelay,
    InvalidFilter,
    InvalidPartitions,
    InvalidSchedule,
    InvalidTopic,
    UsageError,
)

MISTAKES = (
    ConfigError,
    UsageError,
    InvalidConfig,
    InvalidDelay,
    InvalidFilter,
    InvalidPartitions,
    InvalidSchedule,
    InvalidTopic,
)

app = typer.Typer(
    name="dduomq",
    help="Topics, records and groups: a command line for dduomq.\n\n"
    "Every command talks to one node: --server HOST:PORT, or DDUOMQ_SERVER in the environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(topic.app, name="topic")
app.add_typer(group.app, name="group")
app.add_typer(cluster.app, name="cluster")
app.add_typer(delay.app, name="delay")
app.add_typer(dlq.app, name="dlq")
app.add_typer(schedule.app, name="schedule")
app.command("produce", epilog=produce.EXAMPLES)(produce.produce)
app.command("consume", epilog=consume.EXAMPLES)(consume.consume)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dduomq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that need no command."""


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _end(error: BaseException) -> int:
    """Say what went wrong, if anything is to be said; the exit code."""
    leaves = _leaves(error)
    if any(isinstance(leaf, KeyboardInterrupt | typer.Abort) for leaf in leaves):
        return 130
    if any(isinstance(leaf, BrokenPipeError) for leaf in leaves):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    for leaf in leaves:
        if isinstance(leaf, DduomqError):
            _say(leaf.message)
            return 2 if isinstance(leaf, MISTAKES) else 1
        if hasattr(leaf, "format_message"):  # a mistake that the command line's parser found
            if not leaf.format_message():  # no command was given: the help that was shown says it all
                return 2
            _say(f"{leaf.format_message().rstrip('.')}; --help shows what there is")
            return 2
        if isinstance(leaf, OSError):
            _say(f"{leaf.filename or 'input or output'}: {(leaf.strerror or str(leaf)).lower()}")
            return 2
    raise error


def _say(text: str) -> None:
    print(f"dduomq: error: {' '.join(text.split())}", file=sys.stderr)


def cli(args: Sequence[str] | None = None) -> NoReturn:
    """The console script `dduomq`."""
    try:
        code = app(args=args, prog_name="dduomq", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as stop:  # the parser's own, which hides a closed pipe
        code = _end(stop.__context__) if isinstance(stop.__context__, BrokenPipeError) else stop.code
    except (Exception, KeyboardInterrupt) as error:
        code = _end(error)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    cli()
