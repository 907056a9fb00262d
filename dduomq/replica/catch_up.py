"""How fast a link brings its partitions up to date: a bucket of bytes that fills evenly and never holds much.

A pure machine. Always true: over any time no more comes than the rate allows and one answer more; what is asked for
counts at once, until the answer says how much it is. So it comes in many small pieces: who shares the disk and the
processor with it waits for one of them, not for a second's worth.
"""

from dduomq.limits import REPLICA_PART_BYTES_MAX, REPLICA_PART_BYTES_MIN

PIECE_S = 0.025  # a piece is what may come in this time, and the bucket holds one


class CatchUp:
    """`bytes_per_s` None: as fast as it goes. Times are seconds of any clock that never goes back."""

    __slots__ = ("_bytes_per_s", "_left", "_left_at", "piece_bytes")

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._left = 0.0
        self._left_at = 0.0
        piece = REPLICA_PART_BYTES_MAX if bytes_per_s is None else round(bytes_per_s * PIECE_S)
        self.piece_bytes = min(max(piece, REPLICA_PART_BYTES_MIN), REPLICA_PART_BYTES_MAX)

    @property
    def is_limited(self) -> bool:
        return self._bytes_per_s is not None

    def pass_time(self, now: float) -> None:
        """So much time has gone by: more may be asked for."""
        if self._bytes_per_s is not None:
            self._left = min(self._left + (now - self._left_at) * self._bytes_per_s, self.piece_bytes)
            self._left_at = now

    @property
    def may_ask(self) -> bool:
        return self._bytes_per_s is None or self._left > 0

    @property
    def pause_s(self) -> float:
        """How long until more may be asked for."""
        return 0.0 if self._bytes_per_s is None else max(-self._left / self._bytes_per_s, 0.0) + 0.001

    def asked(self) -> int:
        """A piece is asked for; how much that is, for `answered`."""
        self._left -= self.piece_bytes
        return self.piece_bytes

    def answered(self, asked: int, got: int) -> None:
        """What came instead of so much that was asked for; a batch is never split, so it may be more."""
        self._left += asked - got
