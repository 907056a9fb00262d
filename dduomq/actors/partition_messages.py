"""What may be said to a partition, and what it answers: see the table in `dduomq.actors.partition`.

Always true: a message is frozen; an answer that holds a lease has a `close`.
"""

from collections.abc import Callable

import attrs
import trio

from dduomq.actors.actor import Message
from dduomq.log.files import Lease
from dduomq.log.plog import LogDescription, PendingBatch
from dduomq.log.producers import ProducerState
from dduomq.log.settings import TopicSettings

EARLIEST, LATEST, MAX_TIMESTAMP = -2, -1, -3
READ_COMMITTED = 1
ALL_IN_SYNC, LEADER_ONLY = -1, 1


class Watcher:
    """A parked fetch, or a part of one (`of`): woken by its partitions when they have news."""

    __slots__ = ("_event", "_of", "gone")

    def __init__(self, of: "Watcher | None" = None) -> None:
        self._event = trio.Event()
        self._of = of
        self.gone = False

    @property
    def is_woken(self) -> bool:
        return self._event.is_set()

    def wake(self) -> None:
        self._event.set()
        if self._of is not None:
            self._of.wake()

    def note(self, plan: "FetchPlan") -> None:
        """The high watermark alone has moved: as in `plan`, which has nothing to read."""

    def sleep(self) -> None:
        """To be woken once more."""
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@attrs.frozen(kw_only=True)
class Append(Message):
    """One batch, CRC checked; its buffer belongs to the partition until the answer.

    `acks`: ALL_IN_SYNC, or LEADER_ONLY for whoever is content with less than all replicas in sync.
    """

    batch: PendingBatch
    deadline: float
    acks: int = ALL_IN_SYNC


@attrs.frozen(kw_only=True)
class Fetch(Message):
    offset: int
    max_bytes: int
    isolation: int
    leader_epoch: int
    watcher: Watcher | None
    last_fetched_epoch: int = -1
    min_bytes: int = 1  # with less than that the watcher is woken by the next append


@attrs.frozen(kw_only=True)
class EndOfEpoch(Message):
    """Where `epoch` ends in this log; `leader_epoch` is the asker's view of the leader, -1 if it has none."""

    epoch: int
    leader_epoch: int


@attrs.frozen(kw_only=True)
class ListProducers(Message):
    pass


@attrs.frozen(kw_only=True)
class FindOffset(Message):
    timestamp_ms: int
    isolation: int
    leader_epoch: int = -1


@attrs.frozen(kw_only=True)
class Purge(Message):
    """`offset` -1: everything that consumers can see."""

    offset: int


@attrs.frozen(kw_only=True)
class Configure(Message):
    settings: TopicSettings


@attrs.frozen(kw_only=True)
class Describe(Message):
    pass


@attrs.frozen(kw_only=True)
class Restore(Message):
    pass


@attrs.frozen(kw_only=True)
class Flush(Message):
    pass


@attrs.frozen(kw_only=True)
class Checkpoint(Message):
    pass


@attrs.frozen(kw_only=True)
class Retain(Message):
    pass


@attrs.frozen(kw_only=True)
class Close(Message):
    delete: bool = False


@attrs.frozen
class FetchPlan:
    """What a fetch may read: `size` bytes at `position` of `lease`, or nothing (`lease` None).

    `is_mark_known`: nothing that older leaders may have acked lies above the high watermark. `is_current()`: it is
    still the same leadership; for followers, who are given what may be cut behind it.
    """

    lease: Lease | None
    position: int
    size: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: tuple[tuple[int, int], ...] = ()
    diverging: tuple[int, int] | None = None  # (epoch, its end offset): what the reader has behind it is not here
    is_resident: bool = False  # it has just been read, so it is in the page cache
    next_offset: int = -1  # behind what is read, where anything is
    log_end_offset: int = -1
    is_mark_known: bool = True
    is_current: Callable[[], bool] = attrs.field(default=lambda: True, eq=False, repr=False)

    def close(self) -> None:
        if self.lease is not None:
            self.lease.close()


@attrs.frozen
class Acked:
    """The answer to an `Append`: where the batch lies, and what the ack rests on.

    `delayed`: (place in the batch, id) of the records that come later.
    """

    base_offset: int
    append_time_ms: int
    log_start_offset: int
    durability: str
    delayed: tuple[tuple[int, str], ...] = ()


@attrs.frozen
class OffsetAt:
    timestamp_ms: int
    offset: int
    leader_epoch: int


@attrs.frozen
class EpochEnd:
    """The largest epoch known up to the one asked for, and the offset behind its last record; -1 for none."""

    epoch: int
    end_offset: int


@attrs.frozen
class ActiveProducer:
    """A producer as the log knows it. Offset -1: it has no open transaction."""

    producer_id: int
    state: ProducerState


@attrs.frozen
class PartitionState:
    """`state` is opening, online, offline or closing; `log` is None until it is open.

    `is_idle`: no append waits, is being written or is to be synced; of several replicas it leads, and knows that all
    that was ever acked counts here, too.
    """

    state: str
    leader_epoch: int
    log: LogDescription | None
    reason: str | None = None
    is_idle: bool = True
    replicas: "ReplicasState | None" = None


@attrs.frozen
class ReplicasState:
    """`role`: leading, following or waiting. `positions`: of the followers, by node, as far as a leader knows them."""

    role: str
    leader: int
    isr: tuple[int, ...]
    positions: tuple[tuple[int, int], ...]
