"""What is said of a queue's records, on its way to the broker: many words in one request, in one go.

Always true: one request is under way at most, and what is said meanwhile goes with the next one; each word ends once,
stored or refused; a word whose answer was lost is said again. If it is refused then, though the lock surely lasts, it
was heard the first time; else nobody knows.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import anyio
import attrs

from dduomq.client.consumer import Ask
from dduomq.client.queue_record import QueuePlace, Word
from dduomq.errors import (
    CoordinatorNotAvailable,
    DduomqError,
    NetworkError,
    NotCoordinator,
    OutcomeUnknown,
    RecordNotHeld,
    from_code,
)
from dduomq.wire import native
from dduomq.wire.cluster_errors import PeerUnavailable
from dduomq.wire.native_queue import ACCEPT, REJECT, RENEW, RecordEnding, RecordsSettled, SettlePart, SettleRecords

WORDS_MAX = 10_000  # in one request
TIMEOUT_MS = 10_000
AGAIN_S = 0.2


class Words:
    """Those of one member."""

    def __init__(
        self, group: str, member_id: str, ask: Ask, on_end: Callable[[Word], None], alive_until: Callable[[], float],
        is_old: Callable[[Word], bool] = lambda _word: False,
    ) -> None:  # fmt: skip
        """`on_end` is called for each word that has ended; `alive_until()`: until then the member is surely none that
        is out; `is_old(word)`: its record has come again since, so it was heard.
        """
        self._group = group
        self._member_id = member_id
        self._ask = ask
        self._on_end = on_end
        self._alive_until = alive_until
        self._is_old = is_old
        self._waiting: list[Word] = []
        self._more = anyio.Event()
        self._idle = anyio.Event()
        self._stopped: anyio.Event | None = None

    def say(self, word: Word) -> Word:
        """From now on it is on its way."""
        if not self._waiting:
            self._more.set()
        self._waiting.append(word)
        return word

    async def run(self) -> None:
        """For ever: tell the broker."""
        self._stopped = anyio.Event()
        try:
            while True:
                if not self._waiting:
                    self._idle.set()
                    self._more = anyio.Event()
                    await self._more.wait()
                    self._idle = anyio.Event()
                await self._tell_some()
        finally:
            self._stopped.set()

    async def told(self) -> None:
        """Wait until everything that was said has ended."""
        while self._waiting or not self._idle.is_set():
            await self._idle.wait()

    async def drain(self) -> None:
        """The same without `run`, once that has been cancelled."""
        if self._stopped is not None:
            await self._stopped.wait()
        while self._waiting:
            await self._tell_some()

    async def _tell_some(self) -> None:
        words, self._waiting = self._waiting[:WORDS_MAX], self._waiting[WORDS_MAX:]
        try:
            again, is_away = await self._tell(words)
        except BaseException:  # cancelled: the request may have left
            for word in words:
                word.tries += 1
            self._waiting = [word for word in words if not word.is_ended] + self._waiting
            raise
        self._waiting = again + self._waiting
        if is_away:
            await anyio.sleep(AGAIN_S)

    def _end(self, words: Iterable[Word], error: DduomqError | None) -> None:
        for word in words:
            word.end(self._meant(word, error))
            self._on_end(word)

    def _end_old(self, words: Iterable[Word]) -> None:
        """Their records have come again: what gave them back was heard, what was to end them was not."""
        for word in words:
            if word.ending.kind in {ACCEPT, REJECT}:
                word.end(RecordNotHeld(f"record {word.ending.first} has been given out once more meanwhile"))
            else:
                word.end(None)
            self._on_end(word)

    def _meant(self, word: Word, error: DduomqError | None) -> DduomqError | None:
        """What a refusal means of a word that may have been heard before."""
        if not isinstance(error, RecordNotHeld) or not word.tries or word.ending.kind == RENEW:
            return error
        if word.record is not None and anyio.current_time() < min(word.record.safe_until, self._alive_until()):
            return None
        return OutcomeUnknown(f"what was said of record {word.ending.first} has come to the broker, or came too late")

    async def _tell(self, words: Sequence[Word]) -> tuple[list[Word], bool]:
        """Those that are to be told again; whether that is to wait a little."""
        old = [word for word in words if self._is_old(word)]
        self._end_old(old)
        needed, spare = _without_doubles([word for word in words if not word.is_ended] if old else words)
        said_of = {(word.place, word.ending.first): word.record for word in needed} if spare else {}
        self._end_old([word for word in spare if word.record is not said_of[word.place, word.ending.first]])
        self._end([word for word in spare if not word.is_ended], None)
        if not needed:
            return [], False
        parts = [part for place, spoken in _by_place(needed) for part in _parts(place, spoken)]
        body = SettleRecords(
            self._group, self._member_id, tuple(SettlePart(*place, tuple(endings)) for place, endings, _ in parts)
        )
        told = [word for _, _, spoken in parts for word in spoken]
        sent_at = anyio.current_time()
        try:
            plain, _ = await self._ask(body, TIMEOUT_MS)
        except DduomqError as error:
            if error.retriable or isinstance(error, NetworkError):
                _note_tries(told, error)
                return told, True
            self._end(told, error)
            return [], False
        again: list[Word] = []
        is_away = False
        results = native.from_plain(RecordsSettled, plain).parts
        for (_, _, spoken), result in zip(parts, results, strict=True):
            refused = from_code(result.code, result.message or "") if result.code else None
            if isinstance(refused, RecordNotHeld) and len(spoken) > 1:
                for word in spoken:
                    word.is_alone = True
                again += spoken
            elif refused is not None and refused.retriable:
                is_away = True
                _note_tries(spoken, refused)
                again += spoken
            else:
                if refused is None:
                    _note_renewals(spoken, sent_at)
                self._end(spoken, refused)
        return again, is_away


def _note_tries(words: Iterable[Word], error: DduomqError) -> None:
    """They may have been heard, and stored."""
    for word in words:
        word.tries += isinstance(error, OutcomeUnknown | CoordinatorNotAvailable | NotCoordinator | PeerUnavailable)


def _note_renewals(words: Iterable[Word], sent_at: float) -> None:
    """Those locks last longer now."""
    for word in words:
        if word.ending.kind == RENEW and word.ending.ms and word.record is not None:
            word.record.safe_until = max(word.record.safe_until, sent_at + word.ending.ms / 1000)


def _without_doubles(words: Sequence[Word]) -> tuple[Collection[Word], list[Word]]:
    """Of two words about one record the renewal need not be said, nor what was said of an earlier delivery: that was
    heard, or the record had not come again. (What is to be said, what is not.)
    """
    last: dict[tuple[QueuePlace, int], Word] = {}
    spare: list[Word] = []
    for word in words:
        key = word.place, word.ending.first
        before = last.setdefault(key, word)
        if before is not word:
            is_first = before.record is word.record and not _yields(before.ending, word.ending)
            last[key] = before if is_first else word
            spare.append(word if is_first else before)
    return last.values(), spare


def _yields(before: RecordEnding, ending: RecordEnding) -> bool:
    """A renewal yields to an end, and to one that is longer."""
    return before.kind == RENEW and (ending.kind != RENEW or ending.ms >= before.ms)


def _by_place(words: Iterable[Word]) -> Iterable[tuple[QueuePlace, list[Word]]]:
    found: dict[QueuePlace, list[Word]] = {}
    for word in words:
        found.setdefault(word.place, []).append(word)
    return found.items()


def _parts(place: QueuePlace, words: list[Word]) -> list[tuple[QueuePlace, list[RecordEnding], list[Word]]]:
    """One part of all words that may be told together, neighbours of one kind as one range; and each of the others."""
    alone = [word for word in words if word.is_alone]
    parts = [(place, [word.ending], [word]) for word in alone]
    together = [word for word in words if not word.is_alone] if alone else words
    if not together:
        return parts
    together.sort(key=lambda word: word.ending.first)
    endings: list[RecordEnding] = []
    first = before = together[0].ending
    for word in together[1:]:
        ending = word.ending
        if ending.first == before.last + 1 and _is_alike(ending, first):
            before = ending
            continue
        endings.append(attrs.evolve(first, last=before.last))
        first = before = ending
    endings.append(attrs.evolve(first, last=before.last))
    return [(place, endings, together), *parts]


def _is_alike(one: RecordEnding, other: RecordEnding) -> bool:
    return (one.kind, one.ms, one.reason, one.count) == (other.kind, other.ms, other.reason, other.count)
