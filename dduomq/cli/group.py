"""`dduomq group …`: who is in a group, how far it is, and putting that right."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dduomq.cli.common import (
    DEFAULT_SERVER,
    Json,
    Server,
    confirm,
    parse_start,
    print_json,
    print_table,
    say,
    with_client,
)
from dduomq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dduomq.client.client import Client
    from dduomq.client.group_admin import GroupChange, PartitionLag
    from dduomq.wire.native_groups import AssignedPart, GroupDescription
    from dduomq.wire.native_queue import QueueDescription

app = typer.Typer(help="Who is in a group, how far it is, and putting that right.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
SHIFT = re.compile(r"[+-]\d+")


@app.command("list", epilog="Example: dduomq group list --json | jq -r .name")
def list_groups(server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """List all groups."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.list_groups()

    groups = with_client(server, work)
    if json:
        for group in groups:
            print_json(attrs.asdict(group))
    elif not groups:
        say("there are no groups yet; one comes with its first member: dduomq consume TOPIC --group NAME")
    else:
        rows = [(group.name, group.kind, group.state, group.members) for group in groups]
        print_table("", ["group", "kind", "state", "members"], rows)


@app.command(epilog="Example: dduomq group describe billing")
def describe(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and tell each change as it happens.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Show a group's state, its members, and how far it is in each partition."""
    if watch:
        _watch(name, server, json=json)
        return

    async def work(mq: "Client") -> Any:
        found = await mq.admin.describe_group(name)
        queue = await mq.admin.describe_queue(name) if found.kind == "share" else None
        return found, await mq.admin.group_lag(name), queue

    found, lags, queue = with_client(server, work)
    if json:
        shown = {**_as_json(found), "partitions": [attrs.asdict(lag) for lag in lags]}
        print_json(shown if queue is None else {**shown, "queue": attrs.asdict(queue)})
        return
    say(f"group {found.name}: {found.state}, kind {found.kind}, epoch {found.epoch}, shared out by {_shown(found)}")
    _print_members(found)
    _print_lag(lags)
    if queue is not None:
        _print_queue(queue)


def _print_queue(queue: "QueueDescription") -> None:
    rows = [(part.topic, part.partition, part.start, part.end, part.acquired, part.waiting) for part in queue.parts]
    print_table("queue", ["topic", "partition", "done before", "fresh from", "being worked on", "to come again"], rows)
    say(f"a record is given out {queue.deliveries} times at most, for {queue.lock_ms / 1000:g} s each")


def _shown(found: "GroupDescription") -> str:
    return found.assignor or "nobody yet"


def _as_json(found: "GroupDescription") -> dict[str, object]:
    members = [
        {
            **{field: getattr(member, field) for field in ("member_id", "instance_id", "client_id", "host", "zone")},
            "epoch": member.epoch, "state": member.state, "topics": member.topics,
            "assignment": {part.topic: part.partitions for part in member.assignment},
        }
        for member in found.members
    ]  # fmt: skip
    return {
        "name": found.name, "kind": found.kind, "state": found.state, "epoch": found.epoch,
        "assignor": found.assignor, "members": members,
    }  # fmt: skip


def _watch(name: str, server: str, *, json: bool) -> None:
    async def work(mq: "Client") -> None:
        async for change in mq.admin.watch_group(name):
            if json:
                print_json({"joined": change.joined, "left": change.left, **_as_json(change.description)})
            else:
                _print_change(change)

    with_client(server, work)


def _print_change(change: "GroupChange") -> None:
    found = change.description
    print(f"epoch {found.epoch}: {found.state}, {len(found.members)} members", flush=True)
    for member in change.joined:
        print(f"  {member} has come", flush=True)
    for member in change.left:
        print(f"  {member} has gone", flush=True)
    for word, places in (("gives up", change.revoked), ("reads", change.assigned)):
        for member, which in places.items():
            print(f"  {member} {word} {', '.join(f'{topic}-{at}' for topic, at in which)}", flush=True)


@app.command(epilog="Example: dduomq group members billing")
def members(name: Name, server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Show a group's members and what each of them reads."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.describe_group(name)

    found = with_client(server, work)
    if json:
        print_json(_as_json(found)["members"])
    else:
        _print_members(found)


def _print_members(found: "GroupDescription") -> None:
    if not found.members:
        say(f"group {found.name} has no members now")
        return
    rows = [
        (m.member_id, m.instance_id or "", m.client_id, m.host, m.epoch, m.state, _partitions(m.assignment))
        for m in found.members
    ]
    print_table("members", ["member", "instance", "client", "host", "epoch", "state", "reads"], rows)


def _partitions(assignment: "Sequence[AssignedPart]") -> str:
    return " ".join(f"{part.topic}:{','.join(map(str, part.partitions))}" for part in assignment)


@app.command(epilog="Example: dduomq group lag billing --json | jq .records")
def lag(
    name: Name,
    watch: Annotated[
        float | None, typer.Option("--watch", "-w", min=0.1, metavar="SECONDS", help="Go on, once in so many seconds.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Show how far a group is behind, in records and in seconds."""

    def show(lags: "Sequence[PartitionLag]") -> None:
        if json:
            for each in lags:
                print_json(attrs.asdict(each))
            sys.stdout.flush()
        else:
            _print_lag(lags)

    async def work(mq: "Client") -> None:
        async for lags in mq.admin.watch_lag(name, watch or 0.0):
            show(lags)
            if watch is None:
                return

    with_client(server, work)


def _print_lag(lags: "Sequence[PartitionLag]") -> None:
    if not lags:
        say("it has committed nothing, and nobody reads for it")
        return
    rows = [
        (
            each.topic, each.partition, "-" if each.committed is None else f"{each.committed:,}", each.end,
            each.records, f"{each.seconds:,.1f}", each.member_id or "",
        )
        for each in lags
    ]  # fmt: skip
    print_table("", ["topic", "partition", "committed", "end", "behind", "seconds", "member"], rows)
    say(f"{sum(each.records for each in lags):,} records behind, {max(each.seconds for each in lags):,.1f} s at most")


@app.command(
    epilog="Examples: dduomq group reset billing orders --to earliest; --to 2026-05-01T12:00:00Z; --to 1234; --to=-100"
)
def reset(
    name: Name,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="In which topic.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="WHERE", help="earliest, latest, OFFSET, a time, or so many back or on: -100, +5."
        ),
    ],
    partition: Annotated[
        list[int] | None, typer.Option("--partition", "-p", min=0, help="Only this one; repeatable. Default: all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be, change nothing.")] = False,
    yes: Yes = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Set where a group goes on reading; it must have no members meanwhile."""
    shift = int(to) if SHIFT.fullmatch(to) else None
    start = parse_start(to, "--to") if shift is None else None
    if not dry_run:
        confirm(f"Set where group {name} goes on in {topic} to {to}?", yes=yes)

    async def work(mq: "Client") -> Any:
        if shift is not None:
            return await mq.admin.shift_group(name, topic, shift, partitions=partition, dry_run=dry_run)
        assert start is not None
        return await mq.admin.reset_group(name, topic, start, partitions=partition, dry_run=dry_run)

    moves = with_client(server, work)
    if json:
        for at, (before, after) in moves.items():
            print_json({"topic": topic, "partition": at, "before": before, "after": after, "done": not dry_run})
        return
    rows = [(at, "-" if before is None else f"{before:,}", after) for at, (before, after) in moves.items()]
    print_table(f"{topic}, as it {'would be' if dry_run else 'is now'}", ["partition", "before", "after"], rows)


@app.command(epilog="Examples: dduomq group delete billing --yes; dduomq group delete billing --topic orders --yes")
def delete(
    name: Name,
    topic: Annotated[
        str | None, typer.Option("--topic", "-t", help="Only how far it is in this topic; the group stays.")
    ] = None,
    member: Annotated[
        str | None, typer.Option("--member", "-m", metavar="ID", help="Only put this member out; the group stays.")
    ] = None,
    yes: Yes = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Forget a group without members and how far it is."""
    if topic is not None and member is not None:
        raise UsageError("--topic and --member are two different things: say one of them")
    what = f"group {name}"
    if topic is not None:
        what = f"how far group {name} is in {topic}"
    elif member is not None:
        what = f"member {member} of group {name}"
    confirm(f"Remove {what}?", yes=yes)

    async def work(mq: "Client") -> None:
        if topic is not None:
            await mq.admin.delete_group_offsets(name, topic)
        elif member is not None:
            await mq.admin.remove_member(name, member)
        else:
            await mq.admin.delete_group(name)

    with_client(server, work)
    if json:
        print_json({"removed": what})
    else:
        say(f"{what} is removed")
