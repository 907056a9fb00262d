"""What another node has asked of this one's partitions, and waits for.

Always true: of a partition one question of a node stands at most, its newest; it is answered once, to whichever fetch
of its line comes next, and then it stands no more; what a node asked before it began a new line, or by an earlier
connection, or has forgotten since, is answered to nobody. News call one of the fetches that wait, the one that has
waited longest; that the high watermark alone has moved goes with the next answer. No partition that is slow to say
what there is holds up what others say. What they say is kept, with its leases, only while a fetch is there to take it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import trio

from dduomq.actors.partition_messages import FetchPlan, Watcher
from dduomq.errors import DduomqError
from dduomq.limits import REPLICA_FETCH_PARTS_MAX, REPLICA_FETCHES_WAITING_MAX, REPLICA_STAND_MS
from dduomq.wire.peer_replication import PeerFetchPart, PeerForgotten

Place: TypeAlias = tuple[int, int]  # a connection's number, and a line's
Key: TypeAlias = tuple[str, int]
Found: TypeAlias = FetchPlan | DduomqError


class Stand(Watcher):
    """One question; a `dduomq.replica.leader.Standing`. `looked_at`: when its partition was last asked about it."""

    __slots__ = ("_ended_at", "_line", "key", "looked_at", "part", "since")

    def __init__(self, part: PeerFetchPart, line: "Line") -> None:
        super().__init__()
        self.part = part
        self.key = (part.topic_id, part.partition)
        self.since = line.heard_at
        self.looked_at = 0.0
        self._line = line
        self._ended_at = 0.0

    @property
    def heard_at(self) -> float:
        return self._ended_at if self.gone else self._line.heard_at

    def wake(self) -> None:
        if not self.gone:
            self._line.wake(self)

    def note(self, plan: FetchPlan) -> None:
        if not self.gone:
            self._line.note(self, plan)

    def end(self) -> None:
        """It is answered, or void."""
        self._ended_at, self.gone = self.heard_at, True


class _Turn:
    """A fetch that waits. `is_over`: it need not wait any longer."""

    __slots__ = ("called", "is_over")

    def __init__(self) -> None:
        self.called = trio.Event()
        self.is_over = False


class Line:
    """All that one node asks by one connection, under one registration. `heard_at`: when it last asked."""

    def __init__(self, place: Place, node_epoch: int) -> None:
        self.place = place
        self.node_epoch = node_epoch
        self.heard_at = 0.0
        self._stands: dict[Key, Stand] = {}  # those that were looked at longest ago come first
        self._woken: dict[Key, Stand] = {}
        self._news: dict[Key, tuple[Stand, Found]] = {}
        self._noted: dict[Key, tuple[Stand, FetchPlan]] = {}
        self._forgotten: dict[Key, int] = {}  # the highest number
        self._present = 0
        self._turns: deque[_Turn] = deque()  # those who wait and were not called
        self._is_called = False
        self._is_ended = False

    # --- questions ----------------------------------------------------------------------------------

    def ask(self, parts: Iterable[PeerFetchPart]) -> None:
        """New ones; they take the place of what was asked of the same partitions, unless that is newer."""
        for part in parts:
            stand = Stand(part, self)
            before = self._stands.get(stand.key)
            if self._forgotten.get(stand.key, part.number - 1) >= part.number:
                continue
            if before is not None:
                if before.part.number > part.number:
                    continue
                self._void(before)
            self._forgotten.pop(stand.key, None)
            self._stands[stand.key] = self._woken[stand.key] = stand

    def forget(self, forgotten: Iterable[PeerForgotten]) -> None:
        """Nobody waits for these any more."""
        for one in forgotten:
            key = (one.topic_id, one.partition)
            stand = self._stands.get(key)
            if stand is not None and stand.part.number <= one.number:
                self._void(stand)
                stand = None
            if stand is None:
                self._forgotten[key] = max(one.number, self._forgotten.get(key, one.number))

    def wake(self, stand: Stand) -> None:
        """There is news of it, perhaps: its partition is to be asked."""
        self._woken[stand.key] = stand
        self._call()

    def note(self, stand: Stand, plan: FetchPlan) -> None:
        """There is something to tell, without hurry."""
        self._noted[stand.key] = (stand, plan)

    def to_ask(self, now: float) -> Sequence[Stand]:
        """Whose partitions are to be asked now: who was woken, and who has stood for long.

        The latter, should its partition have forgotten it: nothing waits for ever.
        """
        taken: list[Stand] = []
        while self._woken and len(taken) < REPLICA_FETCH_PARTS_MAX:
            taken.append(self._look(self._woken.pop(next(iter(self._woken))), now))
        while self._stands and len(taken) < REPLICA_FETCH_PARTS_MAX:
            oldest = next(iter(self._stands.values()))
            if not oldest.looked_at or now - oldest.looked_at < REPLICA_STAND_MS / 1000:
                break
            taken.append(self._look(oldest, now))
        if self._woken:
            self._call()  # that is too much for one
        return taken

    def _look(self, stand: Stand, now: float) -> Stand:
        """It is the last one to be looked at again."""
        self._stands[stand.key] = self._stands.pop(stand.key)
        stand.looked_at = now
        return stand

    def came(self, stand: Stand, found: Found, *, is_news: bool) -> None:
        """What its partition has said."""
        if stand.gone or (stand.key in self._news and self._news[stand.key][0] is stand):
            _close(found)
        elif is_news and not self._present:
            _close(found)
            self._woken[stand.key] = stand
        elif is_news:
            self._news[stand.key] = (stand, found)
            self._call()
        elif isinstance(found, FetchPlan) and found.high_watermark != stand.part.high_watermark:
            self.note(stand, found)

    # --- answers ------------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def collect(self) -> list[tuple[Stand, Found]]:
        """What is to be answered now. Whoever takes it says `answered`, or wakes the stand again."""
        collected: list[tuple[Stand, Found]] = []
        while self._news and len(collected) < REPLICA_FETCH_PARTS_MAX:
            key = next(iter(self._news))
            collected.append(self._news.pop(key))
            self._noted.pop(key, None)
        while self._noted and len(collected) < REPLICA_FETCH_PARTS_MAX:
            stand, plan = self._noted.pop(next(iter(self._noted)))
            if not stand.gone:
                collected.append((stand, plan))
        if self._news:
            self._call()
        return collected

    def answered(self, stand: Stand) -> None:
        """It stands no more."""
        if self._stands.get(stand.key) is stand:
            self._void(stand)
        stand.end()

    def end(self) -> None:
        """Nothing of it is answered any more."""
        self._is_ended = True
        for stand in list(self._stands.values()):
            self._void(stand)
        while self._turns:
            self._dismiss()

    def _void(self, stand: Stand) -> None:
        stand.end()
        key = stand.key
        del self._stands[key]
        self._woken.pop(key, None)
        self._noted.pop(key, None)
        _, found = self._news.pop(key, (None, None))
        if found is not None:
            _close(found)

    # --- fetches ------------------------------------------------------------------------------------

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """A fetch is there. With the last one goes what nobody has taken: it is asked again for the next."""
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1
            if not self._present:
                for stand, found in self._news.values():
                    _close(found)
                    self._woken[stand.key] = stand
                self._news.clear()

    async def wait(self, seconds: float) -> bool:
        """Until there is news, or for so long. True: no longer, as newer fetches wait, or the line has ended."""
        if self._is_ended:
            return True
        if self._woken or self._news:
            await trio.lowlevel.checkpoint()
            return False
        turn = _Turn()
        self._turns.append(turn)
        if len(self._turns) > REPLICA_FETCHES_WAITING_MAX:
            self._dismiss()
        try:
            with trio.move_on_after(seconds):
                await turn.called.wait()
        except BaseException:
            self._is_called = False
            if self._woken or self._news:
                self._call()  # it may have been for this one
            raise
        finally:
            if turn in self._turns:
                self._turns.remove(turn)
        if not turn.is_over:
            self._is_called = False
        return turn.is_over

    def _call(self) -> None:
        if self._turns and not self._is_called:
            self._is_called = True
            self._turns.popleft().called.set()

    def _dismiss(self) -> None:
        turn = self._turns.popleft()
        turn.is_over = True
        turn.called.set()


def _close(found: Found) -> None:
    if isinstance(found, FetchPlan):
        found.close()
