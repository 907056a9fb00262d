"""What a leader knows of its followers: how far each is, who is in sync, how far the records count.

Always true: the high watermark is never above what every replica has that may be in sync, which is the largest
in-sync set while the outcome of a change is not known (KIP-497); it never goes back; it moves only while the set is
as large as it must be (KIP-966). A follower's position is where it fetches next, so all before it is as durable there
as the topic promises. Times are monotonic seconds.
"""

from collections.abc import Iterable
from typing import Protocol

import attrs

UNKNOWN = -1
NEVER = -1.0


class Standing(Protocol):
    """A fetch that waits for news. `since`: when its node asked it."""

    @property
    def since(self) -> float: ...

    @property
    def heard_at(self) -> float:
        """When its node was last known to wait for it."""


@attrs.define(slots=True)
class Follower:
    """`position` is UNKNOWN until it has fetched in this leadership, `epoch` its node's at its last fetch.

    `log_start`: where its log begins, for good. `standing`: its last fetch. What was asked no later than `void_at` says
    nothing any more.
    """

    position: int = UNKNOWN
    log_start: int = UNKNOWN
    epoch: int = 0
    caught_up_at: float = 0.0
    fetched_at: float = 0.0
    end_at_fetch: int = 0
    standing: Standing | None = None
    void_at: float = NEVER

    @property
    def seen_at(self) -> float:
        """When it last fetched, or was known to wait for the answer."""
        return self.fetched_at if self.standing is None else max(self.fetched_at, self.standing.heard_at)

    @property
    def had_all_at(self) -> float:
        """When it lacked nothing. Who fetched at the log's end, and waits, lacks nothing as long as it waits."""
        is_abreast = self.position != UNKNOWN and self.position >= self.end_at_fetch
        return max(self.caught_up_at, self.seen_at) if is_abreast else self.caught_up_at


class Leadership:
    """One leader epoch, from its first moment on. `epoch_start`: where the log ended at that moment."""

    __slots__ = ("_began_at", "_lag_max_s", "_proposed", "epoch_start", "followers", "isr", "me", "min_isr", "replicas")

    def __init__(
        self,
        me: int,
        replicas: Iterable[int],
        isr: Iterable[int],
        *,
        min_isr: int,
        epoch_start: int,
        now: float,
        lag_max_s: float,
    ) -> None:
        self.me = me
        self.epoch_start = epoch_start
        self.followers: dict[int, Follower] = {}
        self.replicas: tuple[int, ...] = ()
        self.isr: tuple[int, ...] = tuple(isr)
        self.min_isr = 1
        self._began_at = now
        self._lag_max_s = lag_max_s
        self._proposed: tuple[int, ...] | None = None
        self.assign(replicas, isr, min_isr, now=NEVER)  # what was asked before has another leader epoch

    # --- the in-sync set ----------------------------------------------------------------------------

    def assign(self, replicas: Iterable[int], isr: Iterable[int], min_isr: int, *, now: float) -> None:
        """What is committed now. No change is on its way any more."""
        self.replicas = tuple(replicas)
        before, self.isr = self.isr, tuple(isr)
        self.min_isr = max(1, min(min_isr, len(self.replicas)))
        self._proposed = None
        kept = {node: self.followers.get(node) for node in self.replicas if node != self.me}
        new = Follower(caught_up_at=self._began_at, void_at=now)
        self.followers = {node: held or attrs.evolve(new) for node, held in kept.items()}
        for node, held in self.followers.items():
            if node in self.isr and node not in before:
                held.caught_up_at = max(held.caught_up_at, held.seen_at)
            elif node in before and node not in self.isr:
                held.position, held.void_at = UNKNOWN, now  # whoever took it out knows why: it must ask anew

    def propose(self, isr: Iterable[int]) -> None:
        """A change is on its way: until its outcome is known it may hold or not."""
        self._proposed = tuple(isr)

    def withdraw(self) -> None:
        """The change was surely not made."""
        self._proposed = None

    @property
    def is_changing(self) -> bool:
        return self._proposed is not None

    @property
    def maximal_isr(self) -> tuple[int, ...]:
        """Everybody who may be in sync."""
        proposed = self._proposed or ()
        return (*self.isr, *(node for node in proposed if node not in self.isr))

    @property
    def is_short(self) -> bool:
        """Too few are in sync for an ack of all."""
        return len(self.isr) < self.min_isr

    # --- positions ----------------------------------------------------------------------------------

    def fetched(
        self, node: int, position: int, epoch: int, *, log_end: int, now: float, log_start: int = 0,
        standing: Standing | None = None,
    ) -> None:  # fmt: skip
        """A follower asks for `position`: all before it is there. It may have gone back, if it lost something."""
        held = self.followers.get(node)
        if held is None:
            return
        if position >= log_end:
            held.caught_up_at = now
        elif held.position != UNKNOWN and position >= held.end_at_fetch:
            held.caught_up_at = max(held.caught_up_at, held.seen_at)
        held.position, held.epoch, held.log_start, held.standing = position, epoch, log_start, standing
        held.fetched_at, held.end_at_fetch = now, log_end

    def is_void(self, node: int, standing: Standing | None) -> bool:
        """Whether that fetch was asked before its node was taken out of the set, or given the replica again."""
        held = self.followers.get(node)
        return held is not None and standing is not None and standing.since <= held.void_at

    def high_watermark(self, own: int, before: int) -> int:
        """How far the records count, when this node has them up to `own` and they counted up to `before`."""
        if self.is_short:
            return before
        reached = own
        for node in self.maximal_isr:
            if node != self.me:
                held = self.followers.get(node)
                reached = min(reached, UNKNOWN if held is None else held.position)
        return max(before, reached)

    def start_of_all(self, own: int) -> int:
        """Where the logs of all who may be in sync begin at least, this node's at `own`."""
        others = [self.followers.get(node) for node in self.maximal_isr if node != self.me]
        return min([own, *(UNKNOWN if held is None else held.log_start for held in others)])

    def is_known(self, high_watermark: int) -> bool:
        """Whether all that earlier leaders may have acked counts here, too."""
        return high_watermark >= self.epoch_start

    # --- who leaves, who joins ----------------------------------------------------------------------

    def lagging(self, high_watermark: int, log_end: int, now: float) -> tuple[int, ...]:
        """Those in sync that have been behind for too long, or have lost what counts."""
        late = []
        for node in self.isr:
            held = self.followers.get(node)
            if held is None:
                continue
            has_lost = UNKNOWN < held.position < high_watermark
            is_behind = held.position < log_end or now - held.seen_at > self._lag_max_s
            if has_lost or (is_behind and now - held.had_all_at > self._lag_max_s):
                late.append(node)
        return tuple(late)

    def joining(self, high_watermark: int, log_start: int = 0) -> tuple[int, ...]:
        """Those that have all that counts, all that there was when this epoch began, and nothing that was purged.

        Nobody without a registration (its epoch is 0 then): it could not be said under which one it has joined.
        """
        needed = max(high_watermark, self.epoch_start)
        return tuple(
            node
            for node, held in self.followers.items()
            if node not in self.isr and held.epoch and held.position >= needed and held.log_start >= log_start
        )

    def epoch_of(self, node: int) -> int:
        """The epoch of its node as its last fetch named it."""
        held = self.followers.get(node)
        return 0 if held is None else held.epoch
