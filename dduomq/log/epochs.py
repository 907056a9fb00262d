"""Which leader epoch began at which offset: Kafka's `leader-epoch-checkpoint`.

Text: `0`, the number of entries, then `epoch start_offset` lines. Always true: epochs and offsets both rise.
"""

NAME = "leader-epoch-checkpoint"


class EpochCache:
    """The epochs of one log, oldest first."""

    __slots__ = ("entries",)

    def __init__(self, entries: tuple[tuple[int, int], ...] = ()) -> None:
        self.entries = entries

    @property
    def latest(self) -> int:
        return self.entries[-1][0] if self.entries else -1

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` begins at `start_offset`; False if it is known already."""
        if epoch <= self.latest:
            return False
        kept = tuple(entry for entry in self.entries if entry[1] < start_offset)
        self.entries = (*kept, (epoch, start_offset))
        return True

    def end_offset_of(self, epoch: int, log_end_offset: int) -> tuple[int, int]:
        """(the largest known epoch up to `epoch`, where it ends); an epoch before all known ones ends where the
        first of those begins; (-1, -1) if none is known (KIP-101).
        """
        found = (epoch, self.entries[0][1]) if self.entries and epoch >= 0 else (-1, -1)
        for at, (known, _start) in enumerate(self.entries):
            if known > epoch:
                break
            end = self.entries[at + 1][1] if at + 1 < len(self.entries) else log_end_offset
            found = (known, end)
        return found

    def truncate(self, end_offset: int) -> None:
        """Forget epochs that begin at or after `end_offset`."""
        self.entries = tuple(entry for entry in self.entries if entry[1] < end_offset)

    def encode(self) -> bytes:
        lines = ["0", str(len(self.entries)), *(f"{epoch} {start}" for epoch, start in self.entries)]
        return ("\n".join(lines) + "\n").encode()


def decode(data: bytes) -> EpochCache:
    """A checkpoint's text; one that can't be read gives an empty cache, which recovery fills again."""
    try:
        lines = data.decode().split("\n")
        count = int(lines[1])
        pairs = [tuple(int(word) for word in line.split()) for line in lines[2 : 2 + count]]
        return EpochCache(tuple((epoch, start) for epoch, start in pairs))
    except (ValueError, IndexError):
        return EpochCache()
