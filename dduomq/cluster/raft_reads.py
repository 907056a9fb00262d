"""Reads that wait until a leader is sure that it leads (dissertation 6.4).

Pure. A read belongs to the first round of heartbeats that begins after it was asked for; when a majority has answered
that round, no other leader can have committed anything before the read was asked for that is not within its index.
Always true: the index of a round is what was committed when it began; by then an entry of the leader's own term was.
"""

from collections import deque

import attrs

from dduomq.cluster.raft_refusals import QuorumBusy
from dduomq.limits import RAFT_READS_MAX
from dduomq.wire.raft_messages import Peer


@attrs.frozen
class Ask:
    """Who wants to read, and what that one calls it."""

    peer: Peer
    context: int


@attrs.frozen
class Round:
    number: int
    index: int
    asks: tuple[Ask, ...]


class Reads:
    """All reads of one leadership."""

    __slots__ = ("_open", "_waiting", "number")

    def __init__(self) -> None:
        self.number = 0  # of the newest round
        self._waiting: list[Ask] = []
        self._open: deque[Round] = deque()

    @property
    def asks(self) -> list[Ask]:
        """All that are not answered."""
        return [ask for one in self._open for ask in one.asks] + self._waiting

    def add(self, ask: Ask) -> None:
        """Raises `QuorumBusy`."""
        if len(self._waiting) + sum(len(one.asks) for one in self._open) >= RAFT_READS_MAX:
            raise QuorumBusy(f"{RAFT_READS_MAX} reads wait for the quorum already; try again")
        self._waiting.append(ask)

    def begin(self, committed: int) -> bool:
        """Begin a round for all that wait; False if there are none."""
        if not self._waiting:
            return False
        self.number += 1
        self._open.append(Round(self.number, committed, tuple(self._waiting)))
        self._waiting.clear()
        return True

    def confirmed(self, number: int) -> list[Round]:
        """A majority has answered this round: it and all before it may be read."""
        found = []
        while self._open and self._open[0].number <= number:
            found.append(self._open.popleft())
        return found
