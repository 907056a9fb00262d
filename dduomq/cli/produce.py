"""`dduomq produce`: lines from a file or standard input to records.

Always true: it ends with 0 only if every record was acknowledged; on an error it says how many were.
"""

import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import attrs
import typer

from dduomq.cli.common import DEFAULT_SERVER, Server, pairs, print_json, say, with_client
from dduomq.cli.lines import JsonFormat, Line, Splitter, TextFormat
from dduomq.errors import DduomqError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dduomq.client.client import Client
    from dduomq.client.record import SendResult

READ_BYTES = 256 * 1024
EXAMPLES = "Examples: dduomq produce orders < lines.txt; dduomq produce orders pairs.txt -K : --compression zstd"


class Input(StrEnum):
    """What a line is."""

    lines = "lines"
    json = "json"


@attrs.define
class _Tally:
    """How it goes: records handed over, acknowledged, and the first error."""

    sent: int = 0
    acked: int = 0
    error: DduomqError | None = None

    def ended(self, _result: "SendResult | None", error: DduomqError | None) -> None:
        if error is None:
            self.acked += 1
        elif self.error is None:
            self.error = error


async def _lines(stream: BinaryIO, progress: "Progress | None") -> AsyncGenerator[bytes, None]:
    """Whole lines as they come; the event loop goes on while nothing does."""
    import anyio.to_thread

    splitter = Splitter()
    while data := await anyio.to_thread.run_sync(stream.read, READ_BYTES, abandon_on_cancel=True):
        for line in splitter.feed(data):
            yield line
        if progress is not None:
            progress.advance(progress.task_ids[0], len(data))
    for line in splitter.end():
        yield line


def _progress(path: Path | None) -> "Progress | None":
    """A bar for a file whose size is known, on a terminal."""
    if path is None or not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    progress.add_task(path.name, total=path.stat().st_size)
    return progress


@attrs.frozen(kw_only=True)
class _Plan:
    """What to send where, and how fast."""

    topic: str
    format: TextFormat | JsonFormat
    defaults: Mapping[str, object]
    headers: list[tuple[str, bytes | None]]
    rate: float | None
    limit: int | None

    def fields(self, line: Line) -> dict[str, object]:
        """The line's own fields over those from the command line."""
        fields = {**self.defaults, **line.fields}
        if self.headers:
            own = line.fields.get("headers", [])
            fields["headers"] = [*self.headers, *own]
        return fields


async def _send_all(mq: "Client", plan: _Plan, stream: BinaryIO, progress: "Progress | None", tally: _Tally) -> None:
    import anyio

    begun = anyio.current_time()
    number = 0
    try:
        async with aclosing(_lines(stream, progress)) as lines:
            async for text in lines:
                number += 1
                line = plan.format.parse(text, number)
                if plan.rate is not None:
                    await anyio.sleep(max(0.0, begun + tally.sent / plan.rate - anyio.current_time()))
                await mq.send_async(plan.topic, line.value, callback=tally.ended, **plan.fields(line))
                tally.sent += 1
                if tally.error is not None or tally.sent == plan.limit:
                    break
    except DduomqError as error:  # of one line; those before it are sent
        tally.error = tally.error or error
    await mq.flush()


def produce(
    topic: Annotated[str, typer.Argument(help="Where to; made on first use where the node allows it.")],
    file: Annotated[Path | None, typer.Argument(help="What to send; without it, standard input.")] = None,
    input: Annotated[
        Input, typer.Option("--input", "-i", help="What a line is: a value, or a JSON object.")
    ] = Input.lines,
    key: Annotated[str | None, typer.Option("--key", "-k", help="One key for all records.")] = None,
    key_separator: Annotated[
        str | None, typer.Option("--key-separator", "-K", metavar="TEXT", help="Each line is KEY, TEXT, value.")
    ] = None,
    null: Annotated[str | None, typer.Option("--null", metavar="TEXT", help="This text means no key or value.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME=VALUE", help="For all records; repeatable.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="One tag for all records.")] = None,
    delay: Annotated[
        str | None, typer.Option("--delay", metavar="TIME", help="They come so much later: 500ms, 10s, 5m, 2h, 7d.")
    ] = None,
    deliver_at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="They come then: 2026-01-01T00:00:00Z.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", min=0, help="Default: by key, or spread.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Records a second; default: no limit.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--max", "-n", min=1, help="Stop after so many records.")] = None,
    compression: Annotated[str, typer.Option("--compression", "-z", help="none, gzip, snappy, lz4 or zstd.")] = "none",
    acks: Annotated[str, typer.Option("--acks", help="all, 1, or 0 for none.")] = "all",
    linger_ms: Annotated[int, typer.Option("--linger-ms", min=0, help="Wait so long for more to send at once.")] = 5,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until a record is given up.")] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary, no progress.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
) -> None:
    """Send each line of a file, or of standard input, as a record.

    With --input json a line is an object with a value (text, or any JSON) and,
    if wanted, key, headers, tag, partition, timestamp_ms: what consume --json
    writes.
    """
    if input is Input.json and (key_separator is not None or null is not None):
        raise UsageError("--key-separator and --null are for lines; JSON objects have a key and null of their own")
    text = TextFormat(None if not key_separator else key_separator.encode(), None if null is None else null.encode())
    defaults = {
        name: value for name, value in (("key", key), ("tag", tag), ("partition", partition)) if value is not None
    }
    plan = _Plan(
        topic=topic,
        format=JsonFormat() if input is Input.json else text,
        defaults=defaults,
        headers=[(name, value.encode()) for name, value in pairs(header or (), "--header").items()]
        + _wish(delay, deliver_at),
        rate=rate,
        limit=limit,
    )
    tally = _Tally()
    begun = time.perf_counter()
    try:
        _run(plan, file, tally, server, quiet, acks=acks, compression=compression, linger=linger_ms / 1000,
             delivery_timeout=timeout)  # fmt: skip
    finally:
        _summarise(topic, tally, time.perf_counter() - begun, acks=acks, as_json=json, quiet=quiet)
    if tally.error is not None:
        raise tally.error


def _wish(delay: str | None, deliver_at: str | None) -> list[tuple[str, bytes | None]]:
    """The header that delays them. Raises `InvalidDelay`, before anything is sent."""
    from dduomq.wire.delay import DELAY_HEADER, DELIVER_AT_HEADER, parse_delay, parse_deliver_at

    if delay is not None and deliver_at is not None:
        raise UsageError("give --delay or --at, not both")
    if delay is not None:
        return [(DELAY_HEADER, str(parse_delay(delay)).encode())]
    if deliver_at is not None:
        return [(DELIVER_AT_HEADER, str(parse_deliver_at(deliver_at)).encode())]
    return []


def _run(plan: _Plan, file: Path | None, tally: _Tally, server: str, quiet: bool, **options: object) -> None:
    stream = _open(file)
    progress = None if quiet else _progress(file)

    async def work(mq: "Client") -> None:
        await _send_all(mq, plan, stream, progress, tally)

    try:
        if progress is not None:
            progress.start()
        with_client(server, work, **options)
    finally:
        if progress is not None:
            progress.stop()
        stream.close()


def _open(file: Path | None) -> BinaryIO:
    """Unbuffered: a read gives what is there, and a thread that waits in one holds no lock when we leave."""
    if file is None:
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    return file.open("rb", buffering=0)


def _summarise(topic: str, tally: _Tally, seconds: float, *, acks: str, as_json: bool, quiet: bool) -> None:
    """Without acks nobody knows what arrived, and nobody claims to."""
    acked = None if acks == "0" else tally.acked
    if as_json:
        print_json({"topic": topic, "sent": tally.sent, "acknowledged": acked, "seconds": round(seconds, 3)})
    elif not quiet and tally.sent:
        lost = "" if tally.acked == tally.sent else f" of {tally.sent:,}"
        unsure = ", unacknowledged" if acked is None else ""
        say(f"{tally.acked:,}{lost} records to {topic} in {seconds:.2f} s{unsure}")
