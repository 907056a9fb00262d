"""`dduomq schedule …`: messages that come again and again."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Json, Server, pairs, print_json, print_table, say, with_client
from dduomq.errors import InvalidDelay, UsageError

if TYPE_CHECKING:
    from dduomq.client.client import Client
    from dduomq.wire.native_schedule import ScheduleListing

app = typer.Typer(help="Messages that come again and again.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


@app.command(
    epilog="Examples: dduomq schedule add report reports now --cron '0 9 * * MON-FRI' --timezone Europe/Zurich; "
    "dduomq schedule add beat health tick --every 30s"
)
def add(
    name: Name,
    topic: Annotated[str, typer.Argument(help="Where to; made on first use where the node allows it.")],
    value: Annotated[str, typer.Argument(help="What the message says.")],
    cron: Annotated[
        str | None,
        typer.Option("--cron", metavar="TEXT", help="Minute hour day month weekday: '0 9 * * MON-FRI'."),
    ] = None,
    every: Annotated[str | None, typer.Option("--every", metavar="TIME", help="An interval: 30s, 10m, 2h, 7d.")] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="For --cron: Europe/Zurich, UTC, …")] = "UTC",
    missed: Annotated[
        str, typer.Option("--missed", help="Of times at which no node was there: skip them, once, or all.")
    ] = "once",
    key: Annotated[str | None, typer.Option("--key", "-k", help="The message's key.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header; repeatable.")
    ] = None,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Default: by key, or 0.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of one of this name.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Let a message come again and again."""
    from dduomq.wire.delay import parse_delay

    if (cron is None) == (every is None):
        raise UsageError("say when: --cron '0 9 * * MON-FRI', or --every 30s")
    try:
        seconds = None if every is None else parse_delay(every) / 1000
    except InvalidDelay as error:
        raise UsageError(f"--every: {error.message}") from None

    async def work(mq: "Client") -> None:
        await mq.admin.add_schedule(
            name, topic, value, cron=cron, every=seconds, timezone=timezone, missed=missed, key=key,
            headers=pairs(header or (), "--header"), partition=partition, replace=replace,
        )  # fmt: skip

    with_client(server, work)
    say(f"{name} is scheduled")


@app.command("list", epilog="Example: dduomq schedule list --json")
def list_schedules(server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """List all schedules, and when each comes next."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.schedules()

    found = with_client(server, work)
    if json:
        for one in found:
            print_json({**attrs.asdict(one), "next": _next(one)})
    elif not found:
        say("there are no schedules; dduomq schedule add makes one")
    else:
        rows = [
            (one.name, one.rule, one.timezone, f"{one.topic}-{one.partition}", one.missed, _next(one)) for one in found
        ]
        print_table("", ["name", "rule", "time zone", "partition", "missed", "next"], rows)


def _next(one: "ScheduleListing") -> str:
    if one.is_paused:
        return "paused"
    return datetime.fromtimestamp(one.next_ms / 1000).astimezone().isoformat(timespec="seconds")


@app.command(epilog="Example: dduomq schedule pause report")
def pause(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Let nothing come until it is resumed."""

    async def work(mq: "Client") -> None:
        await mq.admin.pause_schedule(name)

    with_client(server, work)
    say(f"{name} is paused")


@app.command(epilog="Example: dduomq schedule resume report")
def resume(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Go on with the next time; what fell into the pause does not come."""

    async def work(mq: "Client") -> None:
        await mq.admin.resume_schedule(name)

    with_client(server, work)
    say(f"{name} goes on")


@app.command(epilog="Example: dduomq schedule delete report")
def delete(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Let nothing come any more."""

    async def work(mq: "Client") -> None:
        await mq.admin.delete_schedule(name)

    with_client(server, work)
    say(f"{name} is deleted")
