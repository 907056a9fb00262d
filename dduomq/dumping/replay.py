"""`--replay`: publish the records of log files again, through the client.

Always true: key, value, headers and timestamp stay as they were; control records are left out; a batch whose
CRC is wrong stops the replay before anything of it is sent; what was handed over is awaited to its end.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dduomq.dumping.bounds import Bounds
from dduomq.dumping.printing import start_position
from dduomq.dumping.scan import Batch, Damage, LogFile, scan
from dduomq.dumping.targets import Target
from dduomq.errors import ConfigError, CorruptMessage
from dduomq.wire.records import StoredRecord, decode

if TYPE_CHECKING:
    from dduomq.client.client import Client
    from dduomq.client.producer import Delivery

WAITING_MAX = 10_000
RECORDS_PER_LOOK = 100  # the progress bar is told after so many


def parse_destination(text: str) -> tuple[str, str]:
    """(address, topic) of `HOST:PORT/TOPIC`; raises `ConfigError`."""
    address, slash, topic = text.partition("/")
    if not slash or not address or not topic:
        raise ConfigError(f"--replay takes HOST:PORT/TOPIC, like localhost:6086/orders, not {text!r}")
    return address, topic


def records_of(targets: Iterable[Target], bounds: Bounds, progress: list[int]) -> Iterator[StoredRecord]:
    """Records to publish, in order. `progress[0]` grows by the bytes gone through."""
    for target in targets:
        with LogFile(target.path) as log:
            start = start_position(target, bounds)
            progress[0] += start
            for found in scan(log, start, bounds.may_hold):
                if isinstance(found, Damage) or (isinstance(found, Batch) and not found.crc_is_right):
                    raise CorruptMessage(f"{target.path} at byte {found.position} is damaged; --verify says how")
                if isinstance(found, Batch):
                    progress[0] += found.header.size
                    if found.data and not found.header.is_control:
                        yield from (r for r in decode(found.data) if bounds.holds(r.offset, r.timestamp_ms))


def replay(
    targets: list[Target], bounds: Bounds, destination: str, partition: int | None, records_max: int | None = None
) -> int:
    """Publish at most `records_max` records to `destination`, with a progress bar on a terminal; how many it were."""
    import anyio

    address, topic = parse_destination(destination)
    done = [0]
    records = islice(records_of(targets, bounds, done), records_max)
    total = sum(target.path.stat().st_size for target in targets)
    return anyio.run(_publish, records, done, total, address, topic, partition, backend="trio")


async def _publish(
    records: Iterator[StoredRecord], done: list[int], total: int, address: str, topic: str, partition: int | None
) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from dduomq.client.client import connect

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    async with connect(address, client_id="dduomq-dump") as mq:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"replaying to {topic}", total=total)
            sent = 0
            waiting: deque[Delivery] = deque()
            for record in records:
                waiting.append(await _send(mq, topic, record, partition))
                sent += 1
                if len(waiting) > WAITING_MAX:
                    await waiting.popleft()
                if sent % RECORDS_PER_LOOK == 0:
                    bar.update(task, completed=done[0])
            for delivery in waiting:
                await delivery
    return sent


async def _send(mq: "Client", topic: str, record: StoredRecord, partition: int | None) -> "Delivery":
    return await mq.send_async(
        topic,
        record.value,
        key=record.key,
        headers=record.headers,
        timestamp_ms=record.timestamp_ms,
        partition=partition,
    )
