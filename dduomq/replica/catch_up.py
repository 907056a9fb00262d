"""How fast a node brings its replicas up to date: a bucket of bytes that fills evenly and never holds much.

A pure machine. Always true: over any time no more comes than the rate allows and one answer more; what is asked for
counts at once, until the answer says how much it is; who may ask is whoever has waited longest. So it comes in many
small pieces, one after another, from all leaders in turn: who shares the disk and the processor with it waits for one
of them, not for a second's worth.
"""

from typing import Protocol

from dduomq.limits import REPLICA_PART_BYTES_MAX, REPLICA_PART_BYTES_MIN

PIECE_S = 0.025  # a piece is what may come in this time, and the bucket holds one


class Asker(Protocol):
    """Who stands in line."""

    def wake(self) -> None:
        """It may be its turn, or be so soon: it looks at `take` and `pause_s` again. Called often, so only noted."""


class CatchUp:
    """`bytes_per_s` None: as fast as it goes. Times are seconds of any clock that never goes back."""

    __slots__ = ("_bytes_per_s", "_left", "_left_at", "_line", "piece_bytes")

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._left = 0.0
        self._left_at = 0.0
        self._line: dict[Asker, None] = {}  # in the order in which they came
        piece = REPLICA_PART_BYTES_MAX if bytes_per_s is None else round(bytes_per_s * PIECE_S)
        self.piece_bytes = min(max(piece, REPLICA_PART_BYTES_MIN), REPLICA_PART_BYTES_MAX)

    def pass_time(self, now: float) -> None:
        """So much time has gone by: more may be asked for."""
        if self._bytes_per_s is not None:
            self._left = min(self._left + (now - self._left_at) * self._bytes_per_s, self.piece_bytes)
            self._left_at = now

    def take(self, asker: Asker) -> int | None:
        """A piece to ask for, its size for `answered`; None: not yet, the asker is in line and will be woken."""
        if self._bytes_per_s is None:
            return 0
        self._line.setdefault(asker)
        if self._left <= 0 or next(iter(self._line)) is not asker:
            return None
        self._left -= self.piece_bytes
        self.leave(asker)
        return self.piece_bytes

    def leave(self, asker: Asker) -> None:
        """The asker has nothing to ask for, or can't ask: whoever is behind it in the line goes on."""
        if asker in self._line:
            del self._line[asker]
            self._wake_first()

    def pause_s(self, asker: Asker) -> float:
        """How long until it is the asker's turn; without end for who is not in line, or not the first."""
        if self._bytes_per_s is None or next(iter(self._line), None) is not asker:
            return float("inf")
        return max(-self._left / self._bytes_per_s, 0.0) + 0.001

    def answered(self, asked: int, got: int) -> None:
        """What came instead of so much that was asked for; a batch is never split, so it may be more."""
        self._left += asked - got
        if asked > got:
            self._wake_first()

    def _wake_first(self) -> None:
        for asker in self._line:
            asker.wake()
            break
