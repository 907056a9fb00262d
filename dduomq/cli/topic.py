"""`dduomq topic …`: make, list, describe, configure and remove topics."""

from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Json, Server, confirm, pairs, print_json, print_table, say, with_client
from dduomq.errors import TopicAlreadyExists

if TYPE_CHECKING:
    from dduomq.client.client import Client

app = typer.Typer(help="Make, list, describe, configure and remove topics.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Config = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="KEY=VALUE", help="A setting, e.g. retention.ms=3600000; repeatable."),
]


@app.command(epilog="Example: dduomq topic create orders --partitions 8 -c durability=fsync -c retention.ms=86400000")
def create(
    name: Name,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=0, help="0: the node's default.")] = 0,
    replication: Annotated[
        int, typer.Option("--replication", "-r", min=0, help="Replicas of each; 0: three, where there are three nodes.")
    ] = 0,
    config: Config = None,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Be content if it is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, make nothing.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Make a topic."""
    settings = pairs(config or (), "--config")

    async def work(mq: "Client") -> Any:
        try:
            return await mq.admin.create_topic(
                name, partitions=partitions, replication=replication, config=settings, validate_only=dry_run
            )
        except TopicAlreadyExists:
            if not if_not_exists:
                raise
            return await mq.admin.describe_topic(name)

    made = with_client(server, work)
    if json:
        print_json({"name": made.name, "topic_id": made.topic_id, "partitions": len(made.partitions)})
    else:
        verb = "would be made" if dry_run else "is there"
        say(f"topic {made.name} {verb}, with {len(made.partitions)} partitions")


@app.command("list", epilog="Example: dduomq topic list --json | jq -r .name")
def list_topics(
    internal: Annotated[bool, typer.Option("--internal", help="The broker's own topics, too.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """List all topics."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.list_topics()

    topics = sorted((t for t in with_client(server, work) if internal or not t.internal), key=lambda t: t.name)
    if json:
        for each in topics:
            print_json({"name": each.name, "topic_id": each.topic_id, "partitions": len(each.partitions)})
    elif not topics:
        say("there are no topics yet; make one: dduomq topic create NAME")
    else:
        print_table("", ["topic", "partitions", "id"], [(t.name, len(t.partitions), t.topic_id) for t in topics])


@app.command(epilog="Example: dduomq topic describe orders")
def describe(name: Name, server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Show a topic's partitions, their offsets and sizes, and its settings."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.describe_topic(name)

    found = with_client(server, work)
    if json:
        print_json(attrs.asdict(found))
        return
    columns = ["partition", "leader", "epoch", "first", "end", "committed", "flushed", "bytes", "segments", "state"]
    print_table(
        f"{found.name} ({found.topic_id})",
        columns,
        [
            (
                p.partition, p.leader, p.leader_epoch, p.log_start_offset, p.log_end_offset, p.high_watermark,
                p.flushed_offset, p.size_bytes, p.segments, p.state,
            )
            for p in found.partitions
        ],
    )  # fmt: skip
    _print_config(found.config)


def _print_config(entries: Any) -> None:
    rows = [(e.key, e.value, "default" if e.is_default else "set here", e.doc) for e in entries]
    print_table("settings", ["key", "value", "from", "what it does"], rows)


@app.command(epilog="Example: dduomq topic delete orders --yes")
def delete(name: Name, yes: Yes = False, server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Remove a topic and all of its records."""
    confirm(f"Remove topic {name} and all of its records?", yes=yes)

    async def work(mq: "Client") -> None:
        await mq.admin.delete_topic(name)

    with_client(server, work)
    if json:
        print_json({"deleted": name})
    else:
        say(f"topic {name} is removed")


@app.command("config", epilog="Example: dduomq topic config orders --set retention.ms=3600000 --unset segment.bytes")
def configure(
    name: Name,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key; repeatable.")] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Back to its default; repeatable.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Show a topic's settings, or change them."""
    settings = pairs(set_ or (), "--set")

    async def work(mq: "Client") -> Any:
        if settings or unset:
            await mq.admin.alter_topic(name, settings, tuple(unset or ()))
        return await mq.admin.describe_topic(name)

    found = with_client(server, work)
    if json:
        print_json({entry.key: entry.value for entry in found.config})
    else:
        _print_config(found.config)


@app.command(epilog="Example: dduomq topic purge orders --partition 0 --before 1000 --yes")
def purge(
    name: Name,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Only this one; else all.")] = None,
    before: Annotated[int, typer.Option("--before", min=-1, metavar="OFFSET", help="-1: all records.")] = -1,
    yes: Yes = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Delete a topic's records, all or those before an offset; the topic stays."""
    what = "all records" if before < 0 else f"records before offset {before}"
    confirm(f"Delete {what} of {name}{'' if partition is None else f'-{partition}'}?", yes=yes)

    async def work(mq: "Client") -> dict[int, int]:
        return await mq.admin.purge(name, partition, before)

    starts = with_client(server, work)
    if json:
        print_json([{"partition": p, "log_start_offset": start} for p, start in starts.items()])
    else:
        print_table("", ["partition", "first offset now"], list(starts.items()))


@app.command(epilog="Example: dduomq topic restore orders 3")
def restore(
    name: Name,
    partition: Annotated[int, typer.Argument(min=0, metavar="PARTITION", help="Which log to bring back.")],
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Bring back a log that a disk failure took offline; mend the disk first."""

    async def work(mq: "Client") -> None:
        await mq.admin.restore_log(name, partition)

    with_client(server, work)
    if json:
        print_json({"topic": name, "partition": partition, "state": "online"})
    else:
        print_table("", ["partition", "state"], [(f"{name}-{partition}", "online")])


@app.command("add-partitions", epilog="Example: dduomq topic add-partitions orders 16")
def add_partitions(
    name: Name,
    total: Annotated[int, typer.Argument(min=1, metavar="TOTAL", help="How many there shall be.")],
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Raise the number of partitions. Keys may land in another partition from then on."""

    async def work(mq: "Client") -> Any:
        return await mq.admin.add_partitions(name, total)

    changed = with_client(server, work)
    if json:
        print_json({"name": changed.name, "partitions": len(changed.partitions)})
    else:
        say(f"topic {changed.name} has {len(changed.partitions)} partitions")
