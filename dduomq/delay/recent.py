"""Which batches of producers have been parked lately, so that one that comes again is not parked again.

A pure machine. Always true: of each producer and target the last five batches are known, as a partition knows them
(KIP-98); what one may remember in all is bounded, and the producers that were silent longest are forgotten first.
"""

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import chain
from typing import TypeAlias

from dduomq.delay.handover import Origin
from dduomq.delay.records import Pair, Target
from dduomq.limits import DELAY_PRODUCERS_MAX, DELAY_REMEMBERED_MAX, PRODUCER_BATCHES_REMEMBERED
from dduomq.wire.batch import SEQUENCE_MAX

Pairs: TypeAlias = "array[int]"  # due and number in turn
OPEN_MAX = 100_000  # batches between their parking and the storing of what is left of them


class Recent:
    __slots__ = ("_batches", "_count", "_open")

    def __init__(self) -> None:
        self._batches: OrderedDict[tuple[Target, int], deque[tuple[Origin, Pairs]]] = OrderedDict()
        self._count = 0
        self._open: dict[tuple[Target, Origin], None] = {}

    def find(self, target: Target, origin: Origin) -> list[Pair] | None:
        """The messages of that batch, if it has been parked."""
        for known, pairs in self._batches.get((target, origin[0]), ()):
            if known == origin:
                return list(zip(pairs[::2], pairs[1::2], strict=True))
        return None

    def is_past(self, target: Target, origin: Origin) -> bool:
        """Whether the producer has long sent other batches behind it: it was held up on its way, and may have been
        parked before those that are remembered.
        """
        batches = self._batches.get((target, origin[0]))
        if not batches:
            return False
        (_, epoch, oldest), newest = batches[0][0], batches[-1][0][1]
        if origin[1] != newest:
            return origin[1] < newest
        is_full = len(batches) >= PRODUCER_BATCHES_REMEMBERED
        return is_full and epoch == newest and (origin[2] - oldest) & SEQUENCE_MAX > SEQUENCE_MAX // 2

    def add(self, target: Target, origin: Origin, pairs: Iterable[Pair]) -> None:
        """More messages of a producer's batch; those of a batch come one after another."""
        key = (target, origin[0])
        batches = self._batches.setdefault(key, deque())
        self._batches.move_to_end(key)
        if not batches or batches[-1][0] != origin:
            batches.append((origin, array("q")))
            if len(batches) > PRODUCER_BATCHES_REMEMBERED:
                self._count -= len(batches.popleft()[1])
        before = len(batches[-1][1])
        batches[-1][1].extend(chain.from_iterable(pairs))
        self._count += len(batches[-1][1]) - before
        while self._count > 2 * DELAY_REMEMBERED_MAX or len(self._batches) > DELAY_PRODUCERS_MAX:
            if len(self._batches) == 1:
                break
            _, oldest = self._batches.popitem(last=False)
            self._count -= sum(len(pairs) for _, pairs in oldest)

    def confirm(self, target: Target, origin: Origin) -> None:
        """The batch is stored in its target."""
        self._open.pop((target, origin), None)

    def is_confirmed(self, target: Target, origin: Origin) -> bool:
        """Whether it may be stored there; of what was replayed nobody knows, so it may."""
        return (target, origin) not in self._open

    def opened(self, target: Target, origin: Origin) -> None:
        """It has been parked in this life, and is not stored in its target yet."""
        self._open[target, origin] = None
        while len(self._open) > OPEN_MAX:
            del self._open[next(iter(self._open))]

    def forget(self, target: Target, origin: Origin) -> None:
        """The batch was taken back: it may come again."""
        self._open.pop((target, origin), None)
        batches = self._batches.get((target, origin[0]))
        for known in [known for known in batches or () if known[0] == origin]:
            assert batches is not None
            batches.remove(known)
            self._count -= len(known[1])
