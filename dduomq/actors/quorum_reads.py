"""Those who wait until this node's state is as new as their question.

Always true: all that wait go by one question to the leader; a question that may have been lost is asked again, under
another number; who has waited too long is told; each is answered once.
"""

from collections.abc import Callable, Sequence
from itertools import count

import attrs

from dduomq.cluster.raft import Raft
from dduomq.cluster.raft_ready import ReadIndex
from dduomq.cluster.raft_refusals import NoQuorumLeader, QuorumBusy
from dduomq.errors import DduomqError
from dduomq.limits import RAFT_READS_MAX
from dduomq.ports import Rng

AGAIN_TICKS = 4
Done = Callable[[DduomqError | None], None]


@attrs.frozen
class _Read:
    done: Done
    until: int


class QuorumReads:
    """`add`, then `ask` once for all; times are ticks."""

    __slots__ = ("_confirmed", "_numbers", "_open", "_waiting")

    def __init__(self, rng: Rng) -> None:
        self._numbers = count(rng.getrandbits(31) << 32)  # no number is used twice, not even after a restart
        self._waiting: list[_Read] = []
        self._open: dict[int, tuple[int, list[_Read]]] = {}  # by number: when it was asked, for whom
        self._confirmed: list[tuple[int, list[_Read]]] = []  # by the index that must be applied

    def add(self, done: Done, until: int) -> None:
        """Raises `QuorumBusy`."""
        if len(self._waiting) >= RAFT_READS_MAX:
            raise QuorumBusy(f"{RAFT_READS_MAX} reads wait for the metadata's quorum already; try again")
        self._waiting.append(_Read(done, until))

    def ask(self, raft: Raft, now: int) -> None:
        """One question at a time."""
        if not self._waiting or self._open:
            return
        number = next(self._numbers)
        try:
            raft.read(number)
        except (NoQuorumLeader, QuorumBusy):
            return  # there will be a leader, or somebody waits too long
        self._open[number] = (now, self._waiting)
        self._waiting = []

    def tick(self, now: int) -> None:
        """Ask again what may be lost, and give up on what is too late."""
        self.lost([number for number, (at, _) in self._open.items() if at + AGAIN_TICKS <= now])
        late = [read for read in self._waiting if read.until <= now]
        self._waiting = [read for read in self._waiting if read.until > now]
        for read in late:
            read.done(NoQuorumLeader("the metadata's quorum gives no answer: does a majority of its voters run?"))

    def lost(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in self._open:
                self._waiting += self._open.pop(number)[1]

    def confirmed(self, reads: Sequence[ReadIndex]) -> None:
        for read in reads:
            if read.context in self._open:
                self._confirmed.append((read.index, self._open.pop(read.context)[1]))

    def answer(self, applied: int) -> None:
        ready = [read for index, reads in self._confirmed if index <= applied for read in reads]
        self._confirmed = [(index, reads) for index, reads in self._confirmed if index > applied]
        for read in ready:
            read.done(None)

    def fail_all(self, error: DduomqError) -> None:
        everyone = [*self._waiting, *(read for _, reads in self._open.values() for read in reads)]
        everyone += [read for _, reads in self._confirmed for read in reads]
        self._waiting, self._open, self._confirmed = [], {}, []
        for read in everyone:
            read.done(error)
