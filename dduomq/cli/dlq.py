"""`dduomq dlq …`: dead letters: what rests and why, sending it on, taking it away."""

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dduomq.cli.common import DEFAULT_SERVER, Json, Server, confirm, print_json, print_table, say, with_client
from dduomq.cli.lines import shown
from dduomq.errors import UsageError

if TYPE_CHECKING:
    from dduomq.client.client import Client
    from dduomq.client.letter_admin import DeadLetter, To

app = typer.Typer(help="Dead letters: what rests and why, sending it on, taking it away.", no_args_is_help=True)

Group = Annotated[str, typer.Argument(help="Whose dead letters; __delayed: those of delayed messages.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]…", help="As `dduomq dlq list GROUP` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All that rest now.")]
Filter = Annotated[
    str | None, typer.Option("--filter", "-F", metavar="EXPRESSION", help="Those that match: price > 5, or a tag.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
SHOWN_CHARACTERS = 60


@app.command("list", epilog="Examples: dduomq dlq list; dduomq dlq list billing --filter \"region = 'eu'\" --max 20")
def list_letters(
    group: Annotated[str | None, typer.Argument(help="Only this group's, one by one.")] = None,
    filter: Filter = None,
    limit: Annotated[int, typer.Option("--max", "-n", min=1, help="No more than so many.")] = 100,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """List groups with their number of dead letters, or one group's letters, the oldest first."""
    if group is None:
        if filter is not None:
            raise UsageError("--filter is for the letters of one group: dduomq dlq list GROUP --filter ...")
        _list_groups(server, json=json)
        return
    name = group

    async def work(mq: "Client") -> "list[DeadLetter]":
        found: list[DeadLetter] = []
        async with aclosing(mq.admin.dead_letters(name, filter=filter)) as letters:
            async for letter in letters:
                found.append(letter)
                if len(found) == limit:
                    break
        return found

    found = with_client(server, work)
    if json:
        for letter in found:
            print_json(_as_json(letter))
    elif found:
        rows = [(one.letter_id, _moment(one.died_ms), _came_from(one), one.attempts, _why(one)) for one in found]
        print_table("", ["id", "since", "from", "tries", "why"], rows)
    else:
        say(f"no dead letter of group {name!r} rests" + (" that matches" if filter else ""))


def _list_groups(server: str, *, json: bool) -> None:
    found = with_client(server, lambda mq: mq.admin.dead_letter_groups())
    if json:
        for one in found:
            print_json({"group": one.group, "topic": one.topic, "count": one.count})
    elif found:
        print_table("", ["group", "topic", "letters"], [(one.group, one.topic, one.count) for one in found])
    else:
        say("no group has dead letters")


def _came_from(letter: "DeadLetter") -> str:
    place = f"{letter.origin_topic}-{letter.origin_partition}"
    return place if letter.origin_offset is None else f"{place} offset {letter.origin_offset}"


def _why(letter: "DeadLetter") -> str:
    text = ": ".join(part for part in (letter.reason, letter.error) if part)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _moment(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a producer may say any time
        return f"{at_ms} ms"


def _as_json(letter: "DeadLetter") -> dict[str, Any]:
    return {
        "id": letter.letter_id,
        "origin": {
            "topic": letter.origin_topic,
            "partition": letter.origin_partition,
            "offset": letter.origin_offset,
            "timestamp_ms": letter.origin_timestamp_ms,
        },
        "attempts": letter.attempts,
        "reason": letter.reason,
        "error": letter.error,
        "died_ms": letter.died_ms,
        **shown("key", letter.key),
        "headers": [{"name": name, **shown("value", content)} for name, content in letter.headers],
        **shown("value", letter.value),
    }


@app.command(epilog="Example: dduomq dlq show billing 2-17")
def show(
    group: Group,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dduomq dlq list GROUP` shows it.")],
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Show one dead letter, whole."""
    letter = with_client(server, lambda mq: mq.admin.dead_letter(group, letter_id))
    if json:
        print_json(_as_json(letter))
        return
    rows = [
        ("from", _came_from(letter)), ("sent", _moment(letter.origin_timestamp_ms)), ("tries", str(letter.attempts)),
        ("reason", letter.reason), ("error", letter.error), ("since", _moment(letter.died_ms)),
        ("key", _text(letter.key)), *((f"header {name}", _text(content)) for name, content in letter.headers),
        ("value", _text(letter.value)),
    ]  # fmt: skip
    for name, text in rows:
        print(f"{name}: {text}")


def _text(content: bytes | None) -> str:
    return "null" if content is None else content.decode(errors="replace")


@app.command(epilog="Examples: dduomq dlq redrive billing --all; dduomq dlq redrive billing 2-17 --to origin")
def redrive(
    group: Group,
    letter_ids: Ids = None,
    everything: All = False,
    filter: Filter = None,
    to: Annotated[
        str | None, typer.Option(metavar="retry|origin", help="To the group alone, or to the topic each came from.")
    ] = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Send dead letters on, each exactly once: named ones, those that match, or --all."""
    _check_choice(letter_ids, everything, filter)
    if to not in {None, "retry", "origin"}:
        raise UsageError(f"--to is retry or origin, not {to!r}")
    where: To | None = to  # type: ignore[assignment]  # it is one of these

    async def work(mq: "Client") -> int:
        with _progress("sending on") as told:
            return await mq.admin.redrive(group, letter_ids or None, filter=filter, to=where, on_progress=told)

    say(f"sent on of group {group!r}: {_letters(with_client(server, work))}")


@app.command(epilog="Example: dduomq dlq purge billing --filter \"region = 'test'\" --yes")
def purge(
    group: Group,
    letter_ids: Ids = None,
    everything: All = False,
    filter: Filter = None,
    yes: Yes = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Take dead letters away, for good: named ones, those that match, or --all."""
    _check_choice(letter_ids, everything, filter)
    what = _letters(len(letter_ids)) if letter_ids else "all that match" if filter else "all dead letters"
    confirm(f"Take {what} of group {group!r} away, for good?", yes=yes)

    async def work(mq: "Client") -> int:
        with _progress("taking away") as told:
            return await mq.admin.purge_dead_letters(group, letter_ids or None, filter=filter, on_progress=told)

    say(f"taken away of group {group!r}: {_letters(with_client(server, work))}")


def _letters(count: int) -> str:
    return f"{count:,} dead letter{'' if count == 1 else 's'}"


def _check_choice(letter_ids: list[str] | None, everything: bool, filter: str | None) -> None:
    if sum((bool(letter_ids), everything, filter is not None)) != 1:
        raise UsageError("say which dead letters: their ids, --filter EXPRESSION, or --all")


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int], object]]:
    """A count that moves on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done: progress.update(task, completed=done)
