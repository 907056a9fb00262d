"""The records of one partition that a share group works on: who has which, and which are done.

A pure machine: time comes in as `now` (monotonic seconds) and `wall_ms`. Offsets before `end` are done, unless a span
says that they are acquired by a member or available again; from `end` on they are fresh. A change is a list of span
records; `apply` alone changes the state, and whoever applies the same records in the same order has the same queue.
Always true: spans are sorted and don't overlap; a record is acquired by one member at most; a done record stays done;
a record is given out `limit` times at most, then it is dead: done, and reported once.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from operator import attrgetter

import attrs

from dduomq.errors import InvalidRequest, RecordNotHeld
from dduomq.limits import QUEUE_LOCKS_MAX

AVAILABLE, ACQUIRED, DONE = 0, 1, 2
GAP, ACCEPT, RELEASE, REJECT, RENEW, RETURN = 0, 1, 2, 3, 4, 5
KINDS = frozenset({GAP, ACCEPT, RELEASE, REJECT, RENEW, RETURN})
OFFSETS = 2**63
NEVER = float("inf")
GRACE_S = 3.0  # so long a member has to answer for a record whose lock has expired
SLACK = 64  # entries of no use that a heap may have beside those of use
_LAST = attrgetter("last")


@attrs.frozen(slots=True)
class SpanRecord:
    """What is so from now on. `ms`: how long the lock is, or how long nobody gets what is available.

    `until_ms`: when that is over, by the wall clock: a restart does not make it longer, nor does a clock that was set.
    """

    first: int
    last: int
    state: int
    count: int = 0
    holder: str = ""
    ms: int = 0
    until_ms: int = 0


@attrs.frozen(slots=True)
class Ending:
    """What a member says of records it has. `ms`: of RELEASE how long nobody gets them, of RENEW the lock's length.

    RETURN is a release of what nobody has begun to work on: it does not count as a delivery. `count`: which delivery
    it is about; 0: the one that is so.
    """

    first: int
    last: int
    kind: int
    ms: int = 0
    reason: str = ""
    count: int = 0


@attrs.frozen(slots=True)
class Dead:
    """Records that nobody gets any more, though nobody has accepted them."""

    first: int
    last: int
    count: int
    reason: str


@attrs.frozen(slots=True)
class Change:
    """What was changed, as it is to be stored, and who died of it."""

    spans: tuple[SpanRecord, ...] = ()
    dead: tuple[Dead, ...] = ()


class Span:
    """Records that share a fate. `due`: when the lock expires, or from when on they may be given out."""

    __slots__ = ("asked", "count", "due", "first", "holder", "last", "ms", "until_ms")

    def __init__(self, first: int, last: int, said: "SpanRecord | Span", due: float) -> None:
        self.first = first
        self.last = last
        self.count: int = said.count
        self.holder: str = said.holder  # "" while they are available
        self.ms: int = said.ms
        self.until_ms: int = said.until_ms
        self.due = due
        self.asked = False  # the holder has been asked whether it is done with them

    def part(self, first: int, last: int) -> "Span":
        span = Span(first, last, self, self.due)
        span.asked = self.asked
        return span

    def record(self) -> SpanRecord:
        state = ACQUIRED if self.holder else AVAILABLE
        return SpanRecord(self.first, self.last, state, self.count, self.holder, self.ms, self.until_ms)


class Queue:
    """See the file's head."""

    __slots__ = ("_delayed", "_locks_due", "_ready", "_spans", "end", "in_flight")

    def __init__(self, end: int) -> None:
        self.end = end
        self.in_flight = 0  # records that are neither fresh nor done
        self._spans: list[Span] = []
        self._ready: list[int] = []  # a heap of where available spans begin; some that do no more
        self._delayed: list[tuple[float, int]] = []  # the same of those that wait for their time
        self._locks_due = NEVER  # no lock expires before

    @property
    def start(self) -> int:
        """Everything before it is done."""
        return self._spans[0].first if self._spans else self.end

    def holders(self) -> set[str]:
        """Who has records in hand."""
        return {span.holder for span in self._spans if span.holder}

    @property
    def acquired(self) -> int:
        """Records that members have."""
        return sum(span.last - span.first + 1 for span in self._spans if span.holder)

    def records(self) -> tuple[SpanRecord, ...]:
        """All that is not done."""
        return tuple(span.record() for span in self._spans)

    # --- changes ------------------------------------------------------------------------------------

    def apply(self, records: Iterable[SpanRecord], now: float, wall_ms: int) -> None:
        """What they say is so. A lock begins anew."""
        for record in records:
            if record.state == DONE:
                self._put(record.first, record.last, None)
                continue
            if record.state == ACQUIRED:
                due = now + record.ms / 1000
                self._locks_due = min(self._locks_due, due)
            else:
                due = now + max(0, min(record.ms, record.until_ms - wall_ms)) / 1000
            self._put(record.first, record.last, Span(record.first, record.last, record, due))
            if record.state == AVAILABLE:
                self._await(record.first, due, now)

    def _put(self, first: int, last: int, span: Span | None) -> None:
        """In place of what was there."""
        spans = self._spans
        begin = at = bisect_left(spans, first, key=_LAST)
        new: list[Span] = []
        while at < len(spans) and spans[at].first <= last:
            old = spans[at]
            self.in_flight -= min(old.last, last) - max(old.first, first) + 1
            if old.first < first:
                new.append(old.part(old.first, first - 1))
            at += 1
        if span is not None:
            new.append(span)
            self.in_flight += last - first + 1
        if at > begin and spans[at - 1].last > last:
            rest = spans[at - 1].part(last + 1, spans[at - 1].last)
            new.append(rest)
            if not rest.holder:
                heappush(self._delayed, (rest.due, rest.first))
        spans[begin:at] = new
        self.end = max(self.end, last + 1)

    def _await(self, first: int, due: float, now: float) -> None:
        if due > now:
            heappush(self._delayed, (due, first))
        else:
            heappush(self._ready, first)
        if len(self._ready) + len(self._delayed) > 2 * len(self._spans) + SLACK:
            waiting = [span for span in self._spans if not span.holder]
            self._ready = sorted(span.first for span in waiting if span.due <= now)
            self._delayed = sorted((span.due, span.first) for span in waiting if span.due > now)

    def _span_of(self, offset: int) -> Span | None:
        at = bisect_left(self._spans, offset, key=_LAST)
        return self._spans[at] if at < len(self._spans) and self._spans[at].first <= offset else None

    def _change(
        self, spans: Sequence[SpanRecord], now: float, wall_ms: int, dead: Sequence[Dead] = ()
    ) -> Change:  # fmt: skip
        self.apply(spans, now, wall_ms)
        return Change(tuple(spans), tuple(dead))

    # --- giving out ---------------------------------------------------------------------------------

    def has_ready(self, now: float) -> bool:
        """Whether there are records that were given out before and may be again."""
        return self._first_ready(now) is not None

    def _first_ready(self, now: float) -> int | None:
        while self._delayed and self._delayed[0][0] <= now:
            heappush(self._ready, heappop(self._delayed)[1])
        while self._ready:
            span = self._span_of(self._ready[0])
            if span is not None and not span.holder and span.due <= now:
                return self._ready[0]
            heappop(self._ready)
        return None

    @property
    def is_full(self) -> bool:
        """Whether fresh records must wait until some are done."""
        return self.in_flight >= QUEUE_LOCKS_MAX

    def next_offset(self, now: float) -> int | None:
        """Where to read what may be given out; None while nothing may."""
        ready = self._first_ready(now)
        if ready is not None:
            return ready
        return None if self.is_full else self.end

    def acquire(
        self, member: str, wanted: range, most: int, *, lock_ms: int, now: float, wall_ms: int, read_at: int,
        ends: Sequence[int] = (),
    ) -> Change:  # fmt: skip
        """Give a member up to `most` of the `wanted` offsets, which it has read from `read_at` on.

        `ends`: where batches end; then more than `most` are given, so that a batch is not given in pieces.
        """
        taken: list[SpanRecord] = []
        left = most
        at = bisect_left(self._spans, wanted.start, key=_LAST)
        last = wanted.stop - 1

        def take(first: int, end: int, count: int) -> int:
            upto = min(end, first + left - 1)
            if ends:
                at = bisect_left(ends, upto)
                upto = min(end, ends[at]) if at < len(ends) else end
            before = taken[-1] if taken else None
            if before is not None and (before.last + 1, before.count) == (first, count):
                taken[-1] = attrs.evolve(before, last=upto)
            else:
                taken.append(SpanRecord(first, upto, ACQUIRED, count, member, lock_ms))
            return upto - first + 1

        while at < len(self._spans) and self._spans[at].first <= last and left > 0:
            span = self._spans[at]
            at += 1
            if not span.holder and span.due <= now:
                left -= take(max(span.first, wanted.start), min(span.last, last), span.count + 1)
        fresh = max(self.end, wanted.start)
        room = QUEUE_LOCKS_MAX - self.in_flight
        if left > 0 and fresh <= last and room > 0 and read_at <= self.end:
            take(fresh, min(last, fresh + room - 1), 1)
        return self._change(taken, now, wall_ms)

    # --- settling -----------------------------------------------------------------------------------

    def settle(self, member: str, endings: Sequence[Ending], *, limit: int, now: float, wall_ms: int) -> Change:
        """What a member says of its records. Raises `RecordNotHeld` or `InvalidRequest`; then nothing is changed."""
        spans: list[SpanRecord] = []
        dead: list[Dead] = []
        before = -1
        for ending in sorted(endings, key=attrgetter("first")):
            if ending.kind not in KINDS or not 0 <= ending.first <= ending.last < OFFSETS or ending.ms < 0:
                raise InvalidRequest(f"records {ending.first} to {ending.last} can't end by {ending.kind}")
            if ending.first <= before:
                raise InvalidRequest(f"record {ending.first} is ended twice")
            before = ending.last
            for span in self._held(member, ending.first, ending.last):
                first, last = max(span.first, ending.first), min(span.last, ending.last)
                if ending.count not in {0, span.count}:
                    raise RecordNotHeld(f"record {first} has been given to member {member!r} again since")
                ended = self._ended(span, first, last, ending, limit, now, wall_ms)
                if ended is not None:
                    spans.append(ended)
                if ended is not None and ended.state == DONE and ending.kind in {REJECT, RELEASE}:
                    why = "rejected" if ending.kind == REJECT else _times(span.count, "released")
                    dead.append(Dead(first, last, span.count, ending.reason or why))
        return self._change(spans, now, wall_ms, dead)

    def _held(self, member: str, first: int, last: int) -> list[Span]:
        """The spans of a range that must be the member's without a gap."""
        found: list[Span] = []
        at, expected = bisect_left(self._spans, first, key=_LAST), first
        while expected <= last:
            span = self._spans[at] if at < len(self._spans) else None
            if span is None or span.first > expected or span.holder != member or not member:
                raise RecordNotHeld(f"record {expected} is not held by member {member!r}, or no longer")
            found.append(span)
            expected = span.last + 1
            at += 1
        return found

    @staticmethod
    def _ended(
        span: Span, first: int, last: int, ending: Ending, limit: int, now: float, wall_ms: int
    ) -> SpanRecord | None:  # fmt: skip
        """What becomes of a part of a span; None where all is as it should be."""
        if ending.kind == RENEW:
            ms = ending.ms or span.ms
            is_longer = now + ms / 1000 > span.due or span.asked
            return SpanRecord(first, last, ACQUIRED, span.count, span.holder, ms) if is_longer else None
        if ending.kind == RETURN:
            return SpanRecord(first, last, AVAILABLE, span.count - 1)
        if ending.kind == RELEASE and span.count < limit:
            until_ms = wall_ms + ending.ms if ending.ms else 0
            return SpanRecord(first, last, AVAILABLE, span.count, ms=ending.ms, until_ms=until_ms)
        return SpanRecord(first, last, DONE)

    def release(self, member: str, *, limit: int, now: float, wall_ms: int) -> Change:
        """A member has gone: what it had goes to others."""
        held = [span for span in self._spans if span.holder == member]
        return self._release(held, "its member has gone", limit, now, wall_ms)

    def keep(self, member: str, held: Sequence[tuple[int, int]], now: float, wall_ms: int) -> Change:
        """A member has these ranges only; what else it was given has never come to it, and goes back."""
        freed: list[SpanRecord] = []
        for span in self._spans:
            if span.holder != member:
                continue
            first = span.first
            for begin, end in [*sorted(held), (span.last + 1, span.last + 1)]:
                if first < begin and begin <= span.last + 1:
                    freed.append(SpanRecord(first, begin - 1, AVAILABLE, span.count - 1))
                if begin <= span.last + 1:
                    first = max(first, end + 1)
        return self._change(freed, now, wall_ms)

    def _release(self, spans: Iterable[Span], why: str, limit: int, now: float, wall_ms: int) -> Change:
        freed: list[SpanRecord] = []
        dead: list[Dead] = []
        for span in spans:
            if span.count >= limit:
                freed.append(SpanRecord(span.first, span.last, DONE))
                dead.append(Dead(span.first, span.last, span.count, _times(span.count, why)))
            else:
                freed.append(SpanRecord(span.first, span.last, AVAILABLE, span.count))
        return self._change(freed, now, wall_ms, dead)

    def trim(self, offset: int, now: float, wall_ms: int) -> Change:
        """The log begins at `offset` now: nobody can work on what was before."""
        if offset <= self.start or (not self._spans and offset <= self.end):
            return Change()
        return self._change([SpanRecord(self.start, offset - 1, DONE)], now, wall_ms)

    def lose(self, offset: int, reason: str, now: float, wall_ms: int) -> Change:
        """A record that may be given out can't be read: it is dead, whoever asked. Nothing, if somebody has it."""
        span = self._span_of(offset)
        if (span.holder if span is not None else offset != self.end) or offset == OFFSETS - 1:
            return Change()
        dead = Dead(offset, offset, 0 if span is None else span.count, reason)
        return self._change([SpanRecord(offset, offset, DONE)], now, wall_ms, [dead])

    def cut(self, end: int) -> None:
        """The log has lost what it had from `end` on, and will have other records there: they are fresh."""
        while self._spans and self._spans[-1].last >= end:
            span = self._spans.pop()
            self.in_flight -= span.last - span.first + 1
            if span.first < end:
                span.last = end - 1
                self._spans.append(span)
                self.in_flight += span.last - span.first + 1
        self.end = min(self.end, end)

    # --- time ---------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When `expire` has something to do, at the earliest."""
        return min(self._locks_due, self._delayed[0][0] if self._delayed else NEVER)

    def expire(
        self, now: float, wall_ms: int, *, limit: int, can_ask: Callable[[str], bool]
    ) -> tuple[Change, dict[str, list[tuple[int, int]]]]:  # fmt: skip
        """Free what has been locked for too long; whom else to ask about which records: the grace begins for them."""
        if self._locks_due > now:
            return Change(), {}
        late: list[Span] = []
        doubts: dict[str, list[tuple[int, int]]] = {}
        self._locks_due = NEVER
        for span in self._spans:
            if not span.holder:
                continue
            if span.due <= now and not span.asked and can_ask(span.holder):
                span.asked, span.due = True, now + GRACE_S
                doubts.setdefault(span.holder, []).append((span.first, span.last))
            if span.due <= now:
                late.append(span)
            else:
                self._locks_due = min(self._locks_due, span.due)
        return self._release(late, "its lock expired", limit, now, wall_ms), doubts

    def doubts(self, member: str) -> list[tuple[int, int]]:
        """What a member has been asked about, and has not answered."""
        return [(span.first, span.last) for span in self._spans if span.asked and span.holder == member]


def _times(count: int, why: str) -> str:
    return f"given out {'once' if count == 1 else f'{count} times'}; the last time {why}"
