"""`dduomq delay …`: messages that come later: which wait, taking one back, giving it another time."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Json, Server, print_json, print_table, say, with_client
from dduomq.errors import InvalidDelay, UsageError

if TYPE_CHECKING:
    from dduomq.client.client import Client
    from dduomq.wire.native_delay import DelayedMessage

app = typer.Typer(help="Messages that come later: which wait, and putting that right.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `dduomq delay list` shows it.")]


@app.command("list", epilog="Example: dduomq delay list orders --max 20")
def list_delayed(
    topic: Annotated[str | None, typer.Argument(help="Only those for this topic.")] = None,
    limit: Annotated[int, typer.Option("--max", "-n", min=1, help="No more than so many, the earliest first.")] = 100,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """List the messages that wait, the earliest first."""

    async def work(mq: "Client") -> Any:
        found: list[DelayedMessage] = []
        async for message in mq.admin.delayed(topic):
            if len(found) == limit:
                break
            found.append(message)
        return found, await mq.admin.count_delayed()

    found, count = with_client(server, work)
    if json:
        for message in found:
            print_json({**attrs.asdict(message), "due": _moment(message.due_ms)})
        return
    if found:
        rows = [(one.delay_id, _moment(one.due_ms), f"{one.topic}-{one.partition}") for one in found]
        print_table("", ["id", "due", "partition"], rows)
    if len(found) < count or not found:
        say(f"{len(found):,} of {count:,} messages that wait" if count else "no message waits")


def _moment(due_ms: int) -> str:
    return datetime.fromtimestamp(due_ms / 1000).astimezone().isoformat(timespec="milliseconds")


@app.command(epilog="Example: dduomq delay cancel 2-1767225600000-17")
def cancel(
    delay_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="As `dduomq delay list` shows them.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Take messages back: they never come."""

    async def work(mq: "Client") -> None:
        for delay_id in delay_ids:
            await mq.admin.cancel_delayed(delay_id)
            say(f"{delay_id} is cancelled")

    with_client(server, work)


@app.command(epilog="Example: dduomq delay reschedule 2-1767225600000-17 --in 10m")
def reschedule(
    delay_id: Id,
    delay: Annotated[
        str | None, typer.Option("--in", metavar="TIME", help="So long from now: 90s, 10m, 2h, 7d.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Then: 2026-01-01T00:00:00Z.")] = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Let a message come at another time; print its new id."""
    from dduomq.wire.delay import parse_delay, parse_deliver_at

    if (delay is None) == (at is None):
        raise UsageError("say when: --in 10m, or --at 2026-01-01T00:00:00Z")
    try:
        wish = {"delay": parse_delay(delay) / 1000} if delay is not None else {"deliver_at": parse_deliver_at(at or "")}
    except InvalidDelay as error:
        raise UsageError(error.message) from None

    async def work(mq: "Client") -> str:
        return await mq.admin.reschedule(delay_id, **wish)

    print(with_client(server, work))
