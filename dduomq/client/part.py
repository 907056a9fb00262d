"""One partition that a consumer reads: what has come and is not handed out yet, and how far the work is."""

from collections.abc import Callable
from typing import Any, TypeAlias

import anyio

from dduomq.client.conn import AnswerStream
from dduomq.client.consumer import Decoder
from dduomq.client.progress import Progress
from dduomq.client.record import Record
from dduomq.wire import native
from dduomq.wire.native_groups import Pushed

TopicPartition: TypeAlias = tuple[str, int]


class GroupRecord(Record):
    """A record of a consumer: it knows whose work it is."""

    __slots__ = ("_part", "_turn")
    _part: "Part"
    _turn: int

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
            self._part.done(self.offset)


class Part:
    """Always true: records are handed out in offset order, each once, unless `seek` says otherwise."""

    __slots__ = (
        "_idle", "_owed", "at", "batch", "cost", "decoder", "id", "is_closed", "is_lost", "is_paused", "is_queued",
        "is_rewound", "on_done", "progress", "scope", "stream", "topic_id", "turn",
    )  # fmt: skip

    def __init__(
        self, topic_id: str, topic: str, partition: int, offset: int, deserialize: Any, *, is_committed: bool = True
    ) -> None:  # fmt: skip
        self.topic_id = topic_id
        self.id: TopicPartition = (topic, partition)
        self.decoder = Decoder(topic, partition, offset, deserialize, GroupRecord)
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
        self.batch, self.at, self.cost = choose(self.decoder.decode(payload, pushed.aborted)), 0, pushed.cost

    def finish_batch(self) -> None:
        """All of it is handed out: what lies up to its end is passed, and its credits may be given back."""
        self._owed += self.cost
        self.batch, self.at, self.cost = [], 0, 0
        self.progress.passed(self.decoder.position)

    def take(self) -> Record:
        """The next record of the batch."""
        record = self.batch[self.at]
        self.at += 1
        self.progress.hand_out(record.offset)
        assert isinstance(record, GroupRecord)
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
