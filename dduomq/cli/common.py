"""What every command shares: the server to talk to, values on the command line, tables and JSON.

Always true: the client is loaded when a command runs, not when its help is shown.
"""

import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

from dduomq.errors import UsageError

if TYPE_CHECKING:
    from dduomq.client.client import Client
    from dduomq.client.consumer import Start

T = TypeVar("T")
DEFAULT_SERVER = "localhost:6086"
_MILLISECONDS = re.compile(r"(\d+)ms\Z")

Server: TypeAlias = Annotated[
    str,
    typer.Option("--server", "-s", envvar="DDUOMQ_SERVER", metavar="HOST:PORT", help="The node to talk to."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON for programs instead of a table.")]


def with_client(server: str, work: Callable[["Client"], Awaitable[T]], **options: Any) -> T:
    """Connect to `server`, do `work(client)`, and give back what it returns."""
    import anyio

    from dduomq.client.client import connect

    async def run() -> T:
        async with connect(server, client_id="dduomq-cli", **options) as mq:
            return await work(mq)

    return anyio.run(run, backend="trio")


def pairs(items: Iterable[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` arguments; raises `UsageError`."""
    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} wants KEY=VALUE, not {item!r}")
        found[key] = value
    return found


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`; raises `UsageError` where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Say --yes: there is nobody here to ask")
    typer.confirm(question, abort=True, err=True)


def parse_start(text: str, option: str = "--from") -> "Start":
    """`earliest`, `latest`, an offset (1234), or a time (2026-05-01T12:00:00Z, 1714557600000ms)."""
    if text in {"earliest", "latest"}:
        return text
    if text.isdigit():
        return int(text)
    milliseconds = _MILLISECONDS.match(text)
    if milliseconds:
        return datetime.fromtimestamp(int(milliseconds[1]) / 1000).astimezone()
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise UsageError(
            f"{option} wants earliest, latest, an offset (1234) or a time (2026-05-01T12:00:00Z), not {text!r}"
        ) from None


def print_json(value: object) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people; columns whose values are all numbers stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    rows = [tuple(row) for row in rows]
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for at, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[at], int) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)


def say(text: str) -> None:
    """A line for people on standard error; standard output stays clean for programs."""
    print(text, file=sys.stderr)
