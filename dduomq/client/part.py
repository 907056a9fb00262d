"""One partition that a consumer reads: what has come and is not handed out yet, and how far the work is."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import attrs

from dduomq.client.conn import AnswerStream
from dduomq.client.consumer import Decoder
from dduomq.client.progress import Progress
from dduomq.client.record import Record
from dduomq.client.retrying import Delay, Ladder, checked_ms
from dduomq.client.returned import Returned, restore
from dduomq.errors import UsageError
from dduomq.wire import native
from dduomq.wire.native_groups import Pushed
from dduomq.wire.ranges import Ranges

PASS_MS, PASS_MS_MAX, PASSED_MAX = 100, 600_000, 40
TopicPartition: TypeAlias = tuple[str, int]
SetAside: TypeAlias = Callable[["Part", "Failed"], Awaitable[bool]]


class GroupRecord(Record):
    """A record of a consumer: it knows whose work it is."""

    __slots__ = ("_part", "_turn")
    _part: "Part"
    _turn: int

    @property
    def attempt(self) -> int:
        """Which try this is; the first is 1."""
        return 1

    @property
    def last_error(self) -> str | None:
        """What was said of it when it was tried before."""
        return None

    @property
    def _at(self) -> int:
        """The offset where it was read."""
        return self.offset

    @property
    def is_lost(self) -> bool:
        """Whether its partition may be another member's by now."""
        return self._part.is_lost

    async def ack(self) -> None:
        """The work on it has ended. Saying so twice does nothing; nor does it after its partition has gone."""
        self.done()

    def done(self) -> None:
        """The same, for the consumer. What was handed out before a `seek` says nothing about what came after it."""
        if self._turn == self._part.turn:
            self._part.done(self._at)

    async def nack(self, delay: Delay | None = None, error: str | BaseException | None = None) -> None:
        """It could not be done: it comes again after `delay`, or as the consumer's `retry` says; after its last try it
        is a dead letter of its group (F42, F43). The group goes on with the records behind it.

        Nothing happens when its partition has gone: whoever has that now gets it. Raises `UsageError` where there is
        no group or `retry` is None, `InvalidDelay`.
        """
        ladder = self._part.ladder
        if ladder is None:
            raise UsageError("this consumer sets nothing aside: it is a broadcast's, or retry=None was given")
        delay_ms = None if delay is None else checked_ms(delay)
        step_ms = ladder.delay_ms(self.attempt)
        reason = "" if step_ms is not None else f"it was tried {self.attempt} times"
        await self._set_aside(step_ms if delay_ms is None or step_ms is None else delay_ms, said(error), reason)

    async def reject(self, reason: str = "rejected") -> None:
        """It can't be done, ever: it becomes a dead letter of its group at once (F43). Raises as `nack` does."""
        if self._part.ladder is None:
            raise UsageError("this consumer sets nothing aside: it is a broadcast's, or retry=None was given")
        await self._set_aside(None, "", reason)

    async def _set_aside(self, delay_ms: int | None, error: str, reason: str, *, is_foreign: bool = False) -> None:
        part = self._part
        if self._turn != part.turn or not part.progress.is_open(self._at):
            return
        assert part.set_aside is not None
        if await part.set_aside(part, Failed(self, self._at, delay_ms, error, reason, is_foreign=is_foreign)):
            self.done()


class ReturnedRecord(GroupRecord):
    """One that comes again is the same record: its topic, partition, offset, timestamp and headers are those it was
    first stored with, wherever it has been read from now.
    """

    __slots__ = ("_read_at", "_returned")
    _read_at: int
    _returned: Returned

    @property
    def attempt(self) -> int:
        return self._returned.attempt

    @property
    def last_error(self) -> str | None:
        return self._returned.last_error

    @property
    def _at(self) -> int:
        return self._read_at

    def restore(self) -> None:
        """What its copy says of where it was first stored."""
        self._read_at = self.offset
        self._returned = restore(self)

    async def pass_on(self) -> None:
        """Its topic is not read here: another member may have it, at once or some time; in the end it is dead."""
        passed = self._returned.passed
        if passed < PASSED_MAX:
            await self._set_aside(min(PASS_MS * 2**passed, PASS_MS_MAX), "", "", is_foreign=True)
        else:
            await self._set_aside(None, "", f"no member of its group reads the topic {self.topic!r}")


@attrs.frozen
class Failed:
    """A record that is to be set aside, read at the offset `at`; `delay_ms` None: for good."""

    record: GroupRecord
    at: int
    delay_ms: int | None
    error: str
    reason: str
    is_foreign: bool = False


def said(error: str | BaseException | None) -> str:
    """What a person should know of it."""
    if not isinstance(error, BaseException):
        text = error or ""
    else:
        try:
            text = f"{type(error).__name__}: {error}"
        except Exception:  # the user's class, whose error must not hide what it is about
            text = f"{type(error).__name__}, which can't be shown"
    return text.encode(errors="replace").decode()


class Part:
    """Always true: records are handed out in offset order, each once, unless `seek` says otherwise."""

    __slots__ = (
        "_aside", "_idle", "_owed", "at", "batch", "cost", "decoder", "id", "is_closed", "is_lost", "is_paused",
        "is_queued", "is_retry", "is_rewound", "ladder", "on_done", "progress", "scope", "set_aside", "stream",
        "topic_id", "turn",
    )  # fmt: skip

    def __init__(
        self,
        topic_id: str,
        topic: str,
        partition: int,
        offset: int,
        deserialize: Any,
        *,
        is_committed: bool = True,
        is_retry: bool = False,
        aside: Ranges | None = None,
        ladder: Ladder | None = None,
        set_aside: "SetAside | None" = None,
    ) -> None:
        """`is_retry`: of records that come again; `aside`: offsets whose records are elsewhere by now."""
        self.is_retry = is_retry
        self._aside = aside or None
        self.ladder = ladder
        self.set_aside = set_aside
        self.topic_id = topic_id
        self.id: TopicPartition = (topic, partition)
        made = ReturnedRecord if is_retry else GroupRecord
        self.decoder = Decoder(topic, partition, offset, deserialize, made)
        self.progress = Progress(offset, is_committed=is_committed)
        self.turn = 0  # counts the seeks
        self.stream: AnswerStream | None = None
        self.scope = anyio.CancelScope()
        self.batch: list[Record] = []
        self.at = 0  # how many of the batch are handed out
        self.cost = 0  # what the batch has cost in credits
        self.is_queued = False
        self.is_paused = False
        self.is_closed = False  # nothing more is handed out
        self.is_lost = False  # another member may have it already: what has not begun must not
        self.is_rewound = False  # the next commit may move back
        self._owed = 0
        self._idle: anyio.Event | None = None
        self.on_done: Callable[[], object] | None = None

    @property
    def has_more(self) -> bool:
        """Whether there is anything to hand out, or to look at."""
        return self.at < len(self.batch) or bool(self.stream is not None and self.stream.frames)

    def load(self, choose: Callable[[list[Record]], list[Record]]) -> None:
        """Take up the next frame. Raises `CorruptMessage`."""
        if self.stream is None or not self.stream.frames:
            return
        plain, payload = self.stream.frames.popleft()
        pushed = native.from_plain(Pushed, plain)
        records = self.decoder.decode(payload, pushed.aborted)
        if self._aside is not None:
            records = [record for record in records if record.offset not in self._aside]
        if self.is_retry:
            for record in records:
                assert isinstance(record, ReturnedRecord)
                record.restore()
        self.batch, self.at, self.cost = choose(records), 0, pushed.cost

    def finish_batch(self) -> None:
        """All of it is handed out: what lies up to its end is passed, and its credits may be given back."""
        self._owed += self.cost
        self.batch, self.at, self.cost = [], 0, 0
        self.progress.passed(self.decoder.position)

    def take(self) -> Record:
        """The next record of the batch."""
        record = self.batch[self.at]
        self.at += 1
        assert isinstance(record, GroupRecord)
        self.progress.hand_out(record._at if self.is_retry else record.offset)
        record._part, record._turn = self, self.turn
        return record

    def owed(self, at_least: int) -> int:
        """Credits to give back, if there are so many."""
        if self._owed < at_least:
            return 0
        owed, self._owed = self._owed, 0
        return owed

    def done(self, offset: int) -> None:
        """The work on a record has ended."""
        self.progress.done(offset)
        self.wake()

    def wake(self) -> None:
        """Less is being worked on than before: whoever waits for that looks again."""
        if self.on_done is not None:
            self.on_done()
        if self._idle is not None and not self.progress.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no record is being worked on."""
        while self.progress.in_flight:
            self._idle = anyio.Event()
            await self._idle.wait()

    def restart(self, stream: AnswerStream) -> None:
        """A new stream, from `decoder.position` on."""
        self.stream = stream
        self._owed = 0
        self.cost = 0  # the stream that it was paid to is no more

    def seek(self, offset: int) -> None:
        """Go on at `offset`, forward or back; what has come is forgotten."""
        self.is_rewound = True
        self.turn += 1
        self.drop()
        self.decoder.seek(offset)
        self.progress.seek(offset)
        self.wake()

    def drop(self) -> None:
        """Forget what has come and is not handed out."""
        if self.stream is not None:
            self.stream.frames.clear()
        self.batch, self.at, self.cost = [], 0, 0

    def close(self) -> None:
        """Hand out nothing more; records that are being worked on may still be done."""
        self.is_closed = True
        self.drop()
