"""`--replay`: publish the records of log files again, through the client.

Always true: key, value, headers and timestamp stay as they were; control records are left out, and so is what
readers of committed data never saw: records of aborted transactions, and of those whose end is not in the files;
a batch whose CRC is wrong stops the replay before anything of it is sent; what was handed over is awaited to its
end.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from dduomq.dumping.bounds import Bounds
from dduomq.dumping.printing import start_position
from dduomq.dumping.scan import Batch, Damage, LogFile, scan
from dduomq.dumping.show import control_kind
from dduomq.dumping.targets import Target
from dduomq.errors import ConfigError, CorruptMessage
from dduomq.wire.batch import BatchHeader
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


@attrs.define
class Undecided:
    """Where each producer's records don't count; `left_out` counts those that were met."""

    ranges: dict[tuple[Path, int], list[tuple[int, float]]] = attrs.field(factory=dict)
    left_out: int = 0

    def hides(self, target: Target, header: BatchHeader) -> bool:
        """Whether the batch is part of a transaction that was not committed."""
        if not header.is_transactional:
            return False
        ranges = self.ranges.get((target.path.parent, header.producer_id), ())
        return any(first <= header.base_offset <= last for first, last in ranges)


def _is_abort(batch: Batch) -> bool:
    return batch.crc_is_right and any(control_kind(record) == "abort" for record in decode(batch.data))


def undecided_in(targets: Iterable[Target]) -> Undecided:
    """One walk over the batch headers: which transactions were aborted, or have no end."""
    begun: dict[tuple[Path, int], int] = {}
    found = Undecided()
    for target in targets:
        with LogFile(target.path) as log:
            for batch in scan(log, wanted=lambda header: header.is_control):
                if not isinstance(batch, Batch) or not batch.header.is_transactional:
                    continue
                who = (target.path.parent, batch.header.producer_id)
                if not batch.header.is_control:
                    begun.setdefault(who, batch.header.base_offset)
                    continue
                first = begun.pop(who, None)
                if first is not None and _is_abort(batch):
                    found.ranges.setdefault(who, []).append((first, batch.header.base_offset))
    for who, first in begun.items():
        found.ranges.setdefault(who, []).append((first, inf))
    return found


def records_of(
    targets: Iterable[Target], bounds: Bounds, progress: list[int], undecided: Undecided
) -> Iterator[StoredRecord]:
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
                        records = [r for r in decode(found.data) if bounds.holds(r.offset, r.timestamp_ms)]
                        if undecided.hides(target, found.header):
                            undecided.left_out += len(records)
                        else:
                            yield from records


def replay(
    targets: list[Target], bounds: Bounds, destination: str, partition: int | None, records_max: int | None = None
) -> tuple[int, int]:
    """Publish at most `records_max` records to `destination`, with a progress bar on a terminal.

    How many it were, and how many were left out because their transaction was not committed.
    """
    import anyio

    address, topic = parse_destination(destination)
    done = [0]
    undecided = undecided_in(targets)
    records = islice(records_of(targets, bounds, done, undecided), records_max)
    total = sum(target.path.stat().st_size for target in targets)
    sent = anyio.run(_publish, records, done, total, address, topic, partition, backend="trio")
    return sent, undecided.left_out


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
