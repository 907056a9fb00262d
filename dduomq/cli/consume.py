"""`dduomq consume`: records to standard output.

Always true: without --follow it ends where the topic ended when it began; what was printed is flushed before
it waits, so that a pipe sees each record at once.
"""

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, BinaryIO

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Server, parse_start, say, with_client
from dduomq.cli.lines import shown
from dduomq.errors import DduomqError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dduomq.client.client import Client
    from dduomq.client.consumer import Reader, Start
    from dduomq.client.group import Consumer
    from dduomq.client.record import Record
    from dduomq.wire.native import PartitionDescription

EXAMPLES = (
    "Examples: dduomq consume orders --keys; dduomq consume orders --from 2026-05-01T12:00:00Z --follow --json; "
    "dduomq consume orders --group billing --filter \"price > 5 AND region = 'eu'\""
)
WAIT_S = 0.5
RETRY_S = 0.5
PULL_MAX = 500
SHARE_WAIT_S = 10.0  # for who has no partition: others may have to give some up first


@attrs.frozen(kw_only=True)
class _Format:
    """How a record is written."""

    json: bool
    separator: bytes | None
    headers: bool
    timestamps: bool
    null: bytes

    def line(self, record: "Record") -> bytes:
        if self.json:
            return json_module.dumps(_as_json(record), ensure_ascii=False).encode() + b"\n"
        parts = []
        if self.timestamps:
            parts.append(f"{record.timestamp_ms}".encode())
        if self.headers:
            parts.append(b",".join(name.encode() + b"=" + (content or self.null) for name, content in record.headers))
        if self.separator is not None:
            parts.append(self.null if record.key is None else record.key)
        parts.append(self.null if record.raw_value is None else record.raw_value)
        return (self.separator or b"\t").join(parts) + b"\n"


def _as_json(record: "Record") -> dict[str, object]:
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **shown("key", record.key),
        "headers": [{"name": name, **shown("value", content)} for name, content in record.headers],
        **shown("value", record.raw_value),
    }


@attrs.frozen(kw_only=True)
class _Plan:
    """What to read, and when to stop. Times are seconds."""

    topic: str
    partitions: list[int] | None
    start: "Start"
    follow: bool
    limit: int | None
    idle: float | None
    rate: float | None
    isolation: str
    group: str | None
    filter: str | None


class _Output:
    """Writes records, no faster than wanted and no more than wanted."""

    def __init__(self, out: BinaryIO, format: _Format, plan: _Plan) -> None:
        self._out = out
        self._format = format
        self._plan = plan
        self._begun: float | None = None
        self.written = 0

    @property
    def is_full(self) -> bool:
        return self._plan.limit is not None and self.written >= self._plan.limit

    async def write(self, records: "list[Record]") -> None:
        """Write what may be written of one fetch, then flush."""
        for record in records:
            if self.is_full:
                break
            if self._plan.rate is not None:
                await self._pace(self._plan.rate)
            self._out.write(self._format.line(record))
            self.written += 1
        self._out.flush()

    async def _pace(self, rate: float) -> None:
        import anyio

        if self._begun is None:
            self._begun = anyio.current_time()
        self._out.flush()
        await anyio.sleep(max(0.0, self._begun + self.written / rate - anyio.current_time()))


async def _read(mq: "Client", plan: _Plan, output: _Output, progress: "Progress | None") -> None:
    import anyio

    async with mq.reader(
        plan.topic,
        partitions=plan.partitions,
        start=plan.start,
        wait=WAIT_S,
        isolation=plan.isolation,
        filter=plan.filter,
    ) as reader:
        partitions = plan.partitions or [part.partition for part in (await _describe(mq, plan.topic))]
        ends = {} if plan.follow else {p: await mq.admin.offset(plan.topic, p, "latest") for p in partitions}
        if progress is not None:
            total = sum(max(0, end - reader.position(p)) for p, end in ends.items())
            progress.add_task(plan.topic, total=min(total, plan.limit or total))
        last = anyio.current_time()
        while not output.is_full:
            if ends and all(reader.position(p) >= end for p, end in ends.items()):
                return
            records = await _fetch(reader, plan)
            await output.write([r for r in records if not ends or r.offset < ends[r.partition]])
            if progress is not None:
                progress.update(progress.task_ids[0], completed=output.written)
            now = anyio.current_time()
            last = now if records else last
            if plan.idle is not None and now - last >= plan.idle:
                return


async def _read_as_member(mq: "Client", plan: _Plan, output: _Output, group: str) -> None:
    """A record is done, and committed, once it is written. Without --follow: until nothing is left of our part."""
    import anyio

    async with mq.consumer(
        plan.topic, group=group, filter=plan.filter, start=plan.start, isolation=plan.isolation
    ) as consumer:
        begun = last = anyio.current_time()
        while not output.is_full:
            room = PULL_MAX if plan.limit is None else plan.limit - output.written
            records = await consumer.pull(min(room, PULL_MAX), timeout=WAIT_S)
            await output.write(list(records))
            now = anyio.current_time()
            last = now if records else last
            if plan.idle is not None and now - last >= plan.idle:
                return
            may_end = bool(consumer.assignment) or now - begun > SHARE_WAIT_S
            if may_end and not (plan.follow or records) and await _is_at_end(mq, consumer):
                return


async def _is_at_end(mq: "Client", consumer: "Consumer") -> bool:
    places = consumer.assignment
    ends = [await mq.admin.offset(topic, partition, "latest") for topic, partition in places]
    return all(consumer.position(*place) >= end for place, end in zip(places, ends, strict=True))


async def _describe(mq: "Client", topic: str) -> "list[PartitionDescription]":
    return list((await mq.admin.describe_topic(topic)).partitions)


async def _fetch(reader: "Reader", plan: _Plan) -> "list[Record]":
    """One fetch; while following, a broker that is away for a while is waited for."""
    import anyio

    try:
        return await reader.fetch()
    except DduomqError as error:
        if not (plan.follow and error.retriable):
            raise
        await anyio.sleep(RETRY_S)
        return []


Group = Annotated[
    str | None,
    typer.Option("--group", "-g", metavar="NAME", help="As a member of this group: each record to one member."),
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", "-F", metavar="TEXT", help="Tags (paid || sent), or a condition (price > 5) on headers."),
]


def consume(
    topic: Annotated[str, typer.Argument(help="Where from.")],
    start: Annotated[
        str,
        typer.Option("--from", metavar="WHERE", help="earliest, latest, OFFSET, or a time: 2026-05-01T12:00:00Z, …ms."),
    ] = "earliest",
    group: Group = None,
    filter_: Filter = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more; so does --from latest.")] = False,
    limit: Annotated[int | None, typer.Option("--max", "-n", min=1, help="Stop after so many records.")] = None,
    idle: Annotated[
        float | None, typer.Option("--idle", min=0, metavar="SECONDS", help="Stop when nothing came for so long.")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", "-p", min=0, help="Only this one; repeatable. Default: all.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with key, headers, place, time.")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", "-k", help="The key before the value.")] = False,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-K", metavar="TEXT", help="Between key and value; implies --keys.")
    ] = None,
    headers: Annotated[bool, typer.Option("--headers", "-H", help="The headers before the value.")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Milliseconds before the value.")] = False,
    null: Annotated[str, typer.Option("--null", metavar="TEXT", help="What stands for no key or value.")] = "",
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Records a second; default: no limit.")
    ] = None,
    isolation: Annotated[str, typer.Option("--isolation", help="committed or uncommitted.")] = "committed",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Print a topic's records: their values, or more.

    Without --follow it stops at the end that the topic has when it begins. With --group it begins where the group has
    come to, or, for a new group, at --from.
    """
    if group is not None and partition:
        raise UsageError("--group shares the partitions out by itself; leave --partition out")
    if json and (keys or key_separator or headers or timestamps):
        raise UsageError("--json shows keys, headers and times already; leave --keys, --headers, --timestamps out")
    separator = key_separator.encode() if key_separator else (b"\t" if keys else None)
    style = _Format(json=json, separator=separator, headers=headers, timestamps=timestamps, null=null.encode())
    plan = _Plan(
        topic=topic,
        partitions=partition or None,
        start=parse_start(start),
        follow=follow or start == "latest",
        limit=limit,
        idle=idle,
        rate=rate,
        isolation=isolation,
        group=group,
        filter=filter_,
    )
    _run(plan, style, server, quiet=quiet)


def _run(plan: _Plan, style: _Format, server: str, *, quiet: bool) -> None:
    output = _Output(sys.stdout.buffer, style, plan)
    progress = None if quiet or plan.follow or plan.group is not None else _progress()

    async def work(mq: "Client") -> None:
        if plan.group is None:
            await _read(mq, plan, output, progress)
        else:
            await _read_as_member(mq, plan, output, plan.group)

    try:
        if progress is not None:
            progress.start()
        with_client(server, work, auto_create=False)
    finally:
        if progress is not None:
            progress.stop()
    if progress is not None:
        say(f"{output.written:,} records")


def _progress() -> "Progress | None":
    """A bar while records go into a file or pipe and a person looks on."""
    if sys.stdout.isatty() or not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
