"""A record of a queue: it is one member's for a while, who says what became of it."""

from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import anyio

from dduomq.client.record import Record
from dduomq.errors import DduomqError, RecordNotHeld, UsageError
from dduomq.wire.native_queue import ACCEPT, REJECT, RELEASE, RENEW, RETURN, RecordEnding

if TYPE_CHECKING:
    from dduomq.client.queue_words import Words

Seconds: TypeAlias = float | timedelta
QueuePlace: TypeAlias = tuple[str, int]  # (topic id, partition)
SAID = {ACCEPT: "acked", RELEASE: "nacked", REJECT: "rejected", RETURN: "returned"}


class Word:
    """What is said of records, from then on until the broker has stored it or has refused it."""

    __slots__ = ("_told", "ending", "error", "is_alone", "is_ended", "place", "record", "tries")

    def __init__(self, place: QueuePlace, ending: RecordEnding, record: "QueueRecord | None") -> None:
        self.place = place
        self.ending = ending
        self.record = record
        self.error: DduomqError | None = None
        self.is_ended = False
        self.is_alone = False  # it is told apart from its neighbours, to learn which of them is refused
        self.tries = 0  # how often it may have come to the broker without our knowing
        self._told: anyio.Event | None = None

    def end(self, error: DduomqError | None) -> None:
        """It is stored, or refused."""
        self.error, self.is_ended = error, True
        if isinstance(error, RecordNotHeld) and self.record is not None:
            self.record.is_lost = True
        if self._told is not None:
            self._told.set()

    async def told(self) -> None:
        """Raises why it was refused."""
        if not self.is_ended:
            self._told = self._told or anyio.Event()
            await self._told.wait()
        if self.error is not None:
            raise self.error


class QueueRecord(Record):
    """A record of a queue. `delivery_count`: how often it has been given out, this time included.

    `is_lost`: its lock has expired, or the broker has given it to another member for another reason.
    """

    __slots__ = ("_place", "_word", "_words", "at", "delivery_count", "is_lost", "safe_until", "since")
    _place: QueuePlace
    at: int  # the offset where it was read
    _words: "Words"

    def take(self, place: QueuePlace, words: "Words", delivery_count: int, since: float, safe_until: float) -> None:
        """It has come; `since`: when. Its lock surely lasts until `safe_until`."""
        self.at = self.offset
        self._place, self._words, self.delivery_count, self.since = place, words, delivery_count, since
        self.safe_until = safe_until
        self._word: Word | None = None
        self.is_lost = False

    @property
    def place(self) -> QueuePlace:
        return self._place

    @property
    def is_settled(self) -> bool:
        """Whether it has been said what became of it."""
        return self._word is not None

    async def ack(self) -> None:
        """It is done: nobody gets it again. Returns when that is stored.

        Raises `RecordNotHeld` when another member has it by now, or will.
        """
        await self.say(ACCEPT).told()

    async def nack(self, delay: Seconds | None = None, error: BaseException | str | None = None) -> None:
        """Give it back: another member gets it, after `delay` seconds. After its last delivery it is dead."""
        await self.say(RELEASE, _ms(delay), _reason(error)).told()

    async def reject(self, reason: BaseException | str | None = None) -> None:
        """It can't be worked on: it is dead."""
        await self.say(REJECT, 0, _reason(reason)).told()

    async def extend(self, seconds: Seconds | None = None) -> None:
        """The work takes longer: the lock is as long as at first from now on, or this long. Never shorter."""
        if self._word is not None:
            raise UsageError(f"{self!r} is {SAID[self._word.ending.kind]} already")
        await self.renew(_ms(seconds)).told()

    def say(self, kind: int, ms: int = 0, reason: str = "") -> Word:
        """What became of it; on its way from now on. Raises `UsageError` the second time."""
        if self._word is not None:
            raise UsageError(f"{self!r} is {SAID[self._word.ending.kind]} already")
        ending = RecordEnding(self.at, self.at, kind, ms, reason, self.delivery_count)
        self._word = self._words.say(Word(self._place, ending, self))
        return self._word

    def renew(self, ms: int = 0) -> Word:
        """The lock begins anew."""
        return self._words.say(
            Word(self._place, RecordEnding(self.at, self.at, RENEW, ms, "", self.delivery_count), self)
        )


def _ms(seconds: Seconds | None) -> int:
    if seconds is None:
        return 0
    ms = int((seconds.total_seconds() if isinstance(seconds, timedelta) else seconds) * 1000)
    if ms < 0:
        raise UsageError(f"{seconds} seconds can't be: a time is at least 0")
    return ms


def _reason(error: BaseException | str | None) -> str:
    if error is None or isinstance(error, str):
        return (error or "")[:1_000]
    return f"{type(error).__name__}: {error}"[:1_000]
