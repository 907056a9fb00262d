"""What another node has asked of this one's partitions, and waits for.

Always true: of a partition one question of a node stands at most, its newest; it is answered once, to whichever fetch
of its line comes next, and then it stands no more; what a node asked before it began a new line, or by an earlier
connection, is answered to nobody. A question with news wakes the fetch that has waited longest; where the high
watermark alone has moved, that goes with the next answer.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import trio

from dduomq.actors.partition_messages import Watcher
from dduomq.limits import REPLICA_FETCH_PARTS_MAX, REPLICA_FETCHES_WAITING_MAX, REPLICA_STAND_MS
from dduomq.wire.peer_replication import PeerFetchPart

Place: TypeAlias = tuple[int, int]  # a connection's number, and a line's


class Stand(Watcher):
    """One question; a `dduomq.replica.leader.Standing`. `asked_at`: when its partition was last asked about it."""

    __slots__ = ("_ended_at", "_line", "asked_at", "part")

    def __init__(self, part: PeerFetchPart, line: "Line") -> None:
        super().__init__()
        self.part = part
        self.asked_at = 0.0
        self._line = line
        self._ended_at = 0.0

    @property
    def key(self) -> tuple[str, int]:
        return self.part.topic_id, self.part.partition

    @property
    def heard_at(self) -> float:
        return self._ended_at if self.gone else self._line.heard_at

    def wake(self) -> None:
        if not self.gone:
            self._line.wake(self)

    def note(self) -> None:
        if not self.gone:
            self._line.note(self)

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
        self._stands: dict[tuple[str, int], Stand] = {}  # those that were looked at longest ago come first
        self._woken: dict[tuple[str, int], Stand] = {}
        self._noted: dict[tuple[str, int], Stand] = {}
        self._turns: deque[_Turn] = deque()  # those who wait and were not called yet
        self._is_ended = False

    # --- questions ----------------------------------------------------------------------------------

    def ask(self, parts: Iterable[PeerFetchPart]) -> None:
        """New ones; they take the place of what was asked of the same partitions, unless that is newer."""
        for part in parts:
            stand = Stand(part, self)
            before = self._stands.get(stand.key)
            if before is not None:
                if before.part.number > part.number:
                    continue
                before.end()
                del self._stands[stand.key]
            self._stands[stand.key] = stand
            self._noted.pop(stand.key, None)
            self._woken[stand.key] = stand

    def wake(self, stand: Stand) -> None:
        """There is news of it."""
        self._woken[stand.key] = stand
        self._call()

    def note(self, stand: Stand) -> None:
        """There is something to tell, without hurry."""
        self._noted[stand.key] = stand

    def take_woken(self, now: float) -> Sequence[Stand]:
        """Those to be looked at now."""
        return self._take(self._woken, now)

    def take_noted(self, now: float) -> Sequence[Stand]:
        """Those to be looked at before an answer goes: who was noted, and who has stood for long."""
        for stand in self._stands.values():
            if now - stand.asked_at < REPLICA_STAND_MS / 1000 or len(self._noted) >= REPLICA_FETCH_PARTS_MAX:
                break
            self._noted[stand.key] = stand
        return self._take(self._noted, now)

    def _take(self, marked: dict[tuple[str, int], Stand], now: float) -> Sequence[Stand]:
        taken: list[Stand] = []
        while marked and len(taken) < REPLICA_FETCH_PARTS_MAX:
            key = next(iter(marked))
            stand = marked.pop(key)
            self._woken.pop(key, None)
            self._noted.pop(key, None)
            if self._stands.get(key) is stand:
                del self._stands[key]
                self._stands[key] = stand
                stand.asked_at = now
                taken.append(stand)
        if self._woken:
            self._call()  # that is too much for one
        return taken

    def answered(self, stand: Stand) -> None:
        """It stands no more."""
        if self._stands.get(stand.key) is stand:
            del self._stands[stand.key]
        stand.end()

    def end(self) -> None:
        """Nothing of it is answered any more."""
        for stand in self._stands.values():
            stand.end()
        for held in (self._stands, self._woken, self._noted):
            held.clear()
        self._is_ended = True
        while self._turns:
            self._dismiss()

    # --- fetches ------------------------------------------------------------------------------------

    async def wait(self, seconds: float) -> bool:
        """Until there is news, or for so long. True: no longer, as newer fetches wait, or the line has ended.

        Each piece of news calls one of those who wait, the one that has waited longest.
        """
        if self._woken or self._is_ended:
            return self._is_ended
        turn = _Turn()
        self._turns.append(turn)
        if len(self._turns) > REPLICA_FETCHES_WAITING_MAX:
            self._dismiss()
        try:
            with trio.move_on_after(seconds):
                await turn.called.wait()
        except BaseException:
            if self._woken:
                self._call()  # it may have been for this one
            raise
        finally:
            if turn in self._turns:
                self._turns.remove(turn)
        return turn.is_over

    def _call(self) -> None:
        if self._turns:
            self._turns.popleft().called.set()

    def _dismiss(self) -> None:
        turn = self._turns.popleft()
        turn.is_over = True
        turn.called.set()
