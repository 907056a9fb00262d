"""The machine of a queue: what each word does, by tables; then any words at all, against a model by the offset."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dduomq.errors import InvalidRequest, RecordNotHeld
from dduomq.groups import queue as queues
from dduomq.groups.queue import ACCEPT, GAP, GRACE_S, REJECT, RELEASE, RENEW, RETURN, Ending, Queue
from dduomq.limits import QUEUE_LOCKS_MAX

LOCK_MS, LOCK_S = 30_000, 30
WALL_MS = 1_700_000_000_000
LIMIT = 5


class Bench:
    """A queue with a clock; what it says is kept, to be replayed."""

    def __init__(self, start=0):
        self.queue = Queue(start)
        self.start = start
        self.records = []
        self.dead = []
        self.now = 100.0

    @property
    def wall_ms(self):
        return WALL_MS + int(self.now * 1000)

    def keep(self, change):
        self.records += change.spans
        self.dead += change.dead
        return change

    def acquire(self, member, first, last, most=1_000, ends=(), read_at=None):
        """(first, last, deliveries) of what was given."""
        change = self.queue.acquire(
            member, range(first, last + 1), most, lock_ms=LOCK_MS, now=self.now, wall_ms=self.wall_ms,
            read_at=first if read_at is None else read_at, ends=ends,
        )  # fmt: skip
        return [(span.first, span.last, span.count) for span in self.keep(change).spans]

    def settle(self, member, *endings, limit=LIMIT):
        endings = [Ending(*ending) for ending in endings]
        return self.keep(self.queue.settle(member, endings, limit=limit, now=self.now, wall_ms=self.wall_ms))

    def release(self, member):
        return self.keep(self.queue.release(member, limit=LIMIT, now=self.now, wall_ms=self.wall_ms))

    def expire(self, *alive):
        """What each of the living is asked."""
        change, doubts = self.queue.expire(self.now, self.wall_ms, limit=LIMIT, can_ask=lambda member: member in alive)
        self.keep(change)
        return doubts

    def shown(self, queue=None):
        """(offset, holder, deliveries) of what is not done."""
        return by_offset(self.queue if queue is None else queue)

    def replayed(self):
        queue = Queue(self.start)
        queue.apply(self.records, self.now, self.wall_ms)
        return queue


def by_offset(queue):
    return {
        offset: (span.holder, span.count) for span in queue.records() for offset in range(span.first, span.last + 1)
    }


# --- tables -----------------------------------------------------------------------------------------


def test_fresh_records_are_given_once():
    """Each to one member; the next ones begin where the last ones end."""
    bench = Bench(10)
    assert bench.queue.next_offset(bench.now) == 10
    assert bench.acquire("a", 10, 19, most=4) == [(10, 13, 1)]
    assert bench.acquire("b", 10, 19) == [(14, 19, 1)]
    assert bench.acquire("c", 10, 19) == []
    assert (bench.queue.start, bench.queue.end, bench.queue.in_flight, bench.queue.acquired) == (10, 20, 10, 10)
    assert bench.queue.next_offset(bench.now) == 20


def test_batches_are_not_cut_where_that_is_wanted():
    """Rather more than were asked for; also of what comes back."""
    bench = Bench()
    assert bench.acquire("a", 0, 29, most=12, ends=(9, 19, 29)) == [(0, 19, 1)]
    bench.settle("a", (0, 19, RELEASE))
    assert bench.acquire("b", 0, 29, most=3, ends=(9, 19, 29)) == [(0, 9, 2)]


def test_the_start_moves_behind_what_is_done():
    """As far as all is done, and no farther."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    bench.settle("a", (5, 9, ACCEPT))
    assert bench.queue.start == 0
    bench.settle("a", (0, 2, ACCEPT), (3, 3, GAP))
    assert (bench.queue.start, bench.queue.in_flight) == (4, 1)
    bench.settle("a", (4, 4, ACCEPT))
    assert (bench.queue.start, bench.queue.end, bench.queue.in_flight) == (10, 10, 0)


@pytest.mark.parametrize(
    ("kind", "left"), [(ACCEPT, None), (GAP, None), (REJECT, None), (RELEASE, ("", 1)), (RETURN, ("", 0)),
                       (RENEW, ("a", 1))],
)  # fmt: skip
def test_what_becomes_of_a_record(kind, left):
    """By what its member says of it."""
    bench = Bench()
    bench.acquire("a", 0, 2)
    bench.settle("a", (1, 1, kind))
    assert bench.shown() == {0: ("a", 1), 2: ("a", 1)} | ({} if left is None else {1: left})
    assert bench.shown(bench.replayed()) == bench.shown()


@pytest.mark.parametrize(
    ("member", "endings", "error"),
    [
        ("b", [(0, 9, ACCEPT)], RecordNotHeld),
        ("", [(0, 9, ACCEPT)], RecordNotHeld),
        ("a", [(0, 10, ACCEPT)], RecordNotHeld),
        ("a", [(0, 3, ACCEPT), (20, 20, ACCEPT)], RecordNotHeld),
        ("a", [(0, 2**63 - 1, ACCEPT)], RecordNotHeld),
        ("a", [(0, 2**63, ACCEPT)], InvalidRequest),
        ("a", [(-1, 3, ACCEPT)], InvalidRequest),
        ("a", [(3, 2, ACCEPT)], InvalidRequest),
        ("a", [(0, 3, ACCEPT), (3, 4, RELEASE)], InvalidRequest),
        ("a", [(4, 6, ACCEPT), (0, 9, RELEASE)], InvalidRequest),
        ("a", [(0, 3, 6)], InvalidRequest),
        ("a", [(0, 3, -1)], InvalidRequest),
        ("a", [(0, 3, RELEASE, -1)], InvalidRequest),
    ],
)
def test_what_may_not_be_said_changes_nothing(member, endings, error):
    """Not even the part of it that might be."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    before = bench.shown()
    with pytest.raises(error):
        bench.settle(member, *endings)
    assert bench.shown() == before
    assert bench.queue.in_flight == 10


def test_a_record_is_not_done_twice():
    """Nor by its next member after it was released."""
    bench = Bench()
    bench.acquire("a", 0, 0)
    bench.settle("a", (0, 0, ACCEPT))
    with pytest.raises(RecordNotHeld):
        bench.settle("a", (0, 0, ACCEPT))
    bench.acquire("a", 1, 1)
    bench.settle("a", (1, 1, RELEASE))
    bench.acquire("b", 1, 1)
    with pytest.raises(RecordNotHeld):
        bench.settle("a", (1, 1, ACCEPT))
    assert bench.shown() == {1: ("b", 2)}


def test_released_records_come_first():
    """Before fresh ones; those with a delay when it is over."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    bench.settle("a", (2, 3, RELEASE), (7, 7, RELEASE, 5_000))
    assert bench.queue.next_offset(bench.now) == 2
    assert bench.acquire("b", 2, 20, most=3) == [(2, 3, 2), (10, 10, 1)]
    assert bench.queue.next_offset(bench.now) == 11
    assert bench.queue.next_due() == bench.now + 5
    bench.now += 5
    assert bench.queue.next_offset(bench.now) == 7
    assert bench.acquire("c", 7, 9) == [(7, 7, 2)]


def test_a_delay_outlives_the_coordinator():
    """It is stored as a time of day."""
    bench = Bench()
    bench.acquire("a", 0, 1)
    bench.settle("a", (0, 0, RELEASE, 5_000))
    bench.now += 2
    after = bench.replayed()
    assert after.next_offset(bench.now) == 2
    assert after.next_due() == pytest.approx(bench.now + 3)
    assert after.next_offset(bench.now + 3) == 0


@pytest.mark.parametrize(("set_by_ms", "left_s"), [(-3_600_000, 5), (3_600_000, 0), (-1_000, 4)])
def test_a_clock_that_was_set_delays_nothing_for_longer(set_by_ms, left_s):
    """After a restart a record waits for as long as was said at most."""
    bench = Bench()
    bench.acquire("a", 0, 0)
    bench.settle("a", (0, 0, RELEASE, 5_000))
    bench.now += 2
    after = Queue(0)
    after.apply(bench.records, bench.now, bench.wall_ms + set_by_ms)
    assert left_s == 0 or after.next_offset(bench.now + left_s - 0.001) == 1
    assert after.next_offset(bench.now + left_s) == 0


def test_a_part_of_what_is_put_off_stays_put_off():
    """The rest of a span, too, comes when its time has come."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    bench.settle("a", (0, 9, RELEASE, 5_000))
    bench.keep(bench.queue.trim(4, bench.now, bench.wall_ms))
    assert bench.queue.next_offset(bench.now) == 10
    bench.now += 5
    assert bench.queue.next_offset(bench.now) == 4
    assert bench.acquire("b", 4, 9, most=2) == [(4, 5, 2)]
    assert bench.queue.next_offset(bench.now) == 6


def test_a_lock_expires():
    """Then the record goes to another member; whoever had it may not end it any more."""
    bench = Bench()
    bench.acquire("a", 0, 4)
    assert bench.queue.next_due() == bench.now + LOCK_S
    bench.now += LOCK_S / 2
    bench.settle("a", (2, 2, RENEW))
    bench.now += LOCK_S / 2
    assert bench.expire() == {}
    assert bench.shown() == {0: ("", 1), 1: ("", 1), 2: ("a", 1), 3: ("", 1), 4: ("", 1)}
    assert bench.queue.next_due() == bench.now + LOCK_S / 2
    assert bench.acquire("b", 0, 4) == [(0, 1, 2), (3, 4, 2)]


def test_a_renewal_never_shortens_a_lock():
    """A longer one stays, also when the coordinator starts again."""
    bench = Bench()
    bench.acquire("a", 0, 0)
    bench.settle("a", (0, 0, RENEW, 600_000))
    bench.settle("a", (0, 0, RENEW, 1_000))
    bench.now += 599
    bench.expire()
    assert bench.shown() == {0: ("a", 1)}
    after = bench.replayed()
    after.expire(bench.now + 599, bench.wall_ms, limit=LIMIT, can_ask=lambda _: False)
    assert by_offset(after) == {0: ("a", 1)}


def test_who_lives_is_asked_first():
    """It may say that the record is done, or that it still works on it; else it goes to another one after the grace."""
    bench = Bench()
    bench.acquire("a", 0, 2)
    bench.now += LOCK_S
    assert bench.expire("a") == {"a": [(0, 2)]}
    assert bench.queue.doubts("a") == [(0, 2)]
    bench.settle("a", (0, 0, ACCEPT), (1, 1, RENEW))
    assert bench.queue.doubts("a") == [(2, 2)]
    assert bench.acquire("b", 0, 2) == []
    bench.now += GRACE_S
    assert bench.expire("a") == {}
    assert bench.shown() == {1: ("a", 1), 2: ("", 1)}
    bench.now += LOCK_S
    assert bench.expire("a") == {"a": [(1, 1)]}


def test_what_a_member_had_goes_to_others():
    bench = Bench()
    bench.acquire("a", 0, 4)
    bench.acquire("b", 5, 9)
    bench.release("a")
    assert bench.queue.next_offset(bench.now) == 0
    assert bench.acquire("b", 0, 4) == [(0, 4, 2)]


@pytest.mark.parametrize("way", ["released", "expired", "gone"])
def test_a_record_dies_of_its_last_delivery(way):
    """It is given out five times, reported once, and then done."""
    bench = Bench()
    for turn in range(LIMIT):
        assert bench.acquire("a", 0, 0) == [(0, 0, turn + 1)]
        assert not bench.dead
        if way == "released":
            bench.settle("a", (0, 0, RELEASE))
        elif way == "expired":
            bench.now += LOCK_S
            bench.expire()
        else:
            bench.release("a")
    assert [(each.first, each.last, each.count) for each in bench.dead] == [(0, 0, LIMIT)]
    assert "given out 5 times" in bench.dead[0].reason
    assert (bench.shown(), bench.queue.start) == ({}, 1)


def test_a_rejected_record_is_dead_with_its_reason():
    bench = Bench()
    bench.acquire("a", 0, 1)
    bench.settle("a", (0, 0, REJECT, 0, "no such customer"), (1, 1, REJECT))
    assert [(each.first, each.count, each.reason) for each in bench.dead] == [
        (0, 1, "no such customer"), (1, 1, "rejected")
    ]  # fmt: skip


def test_what_was_not_begun_was_not_delivered():
    """However often it is returned, it is not dead."""
    bench = Bench()
    for _ in range(3 * LIMIT):
        assert bench.acquire("a", 0, 0) == [(0, 0, 1)]
        bench.settle("a", (0, 0, RETURN))
    assert not bench.dead


def test_there_are_only_so_many_in_hand():
    """Then fresh records wait, and those that come back don't."""
    bench = Bench()
    assert bench.acquire("a", 0, 2 * QUEUE_LOCKS_MAX, most=2 * QUEUE_LOCKS_MAX) == [(0, QUEUE_LOCKS_MAX - 1, 1)]
    assert bench.queue.is_full
    assert bench.queue.next_offset(bench.now) is None
    bench.settle("a", (5, 5, RELEASE))
    assert bench.queue.next_offset(bench.now) == 5
    assert bench.acquire("b", 5, 2 * QUEUE_LOCKS_MAX) == [(5, 5, 2)]
    bench.settle("a", (6, 6, ACCEPT))
    assert bench.queue.next_offset(bench.now) == QUEUE_LOCKS_MAX


def test_who_has_read_elsewhere_gets_nothing_fresh():
    """What lies between where the queue has got to and what was read would be lost."""
    bench = Bench()
    assert bench.acquire("a", 5, 9) == []
    assert bench.acquire("a", 5, 9, read_at=0) == [(5, 9, 1)]
    assert bench.queue.start == 5


def test_a_log_that_begins_later():
    """What it has no more, nobody works on."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    bench.settle("a", (3, 9, RELEASE))
    bench.keep(bench.queue.trim(5, bench.now, bench.wall_ms))
    assert set(bench.shown()) == set(range(5, 10))
    with pytest.raises(RecordNotHeld):
        bench.settle("a", (0, 0, ACCEPT))
    bench.keep(bench.queue.trim(100, bench.now, bench.wall_ms))
    assert (bench.queue.start, bench.queue.end) == (100, 100)
    assert bench.queue.trim(50, bench.now, bench.wall_ms).spans == ()


def test_a_log_that_has_lost_its_end():
    """Other records will have those offsets."""
    bench = Bench()
    bench.acquire("a", 0, 9)
    bench.acquire("b", 10, 19)
    bench.queue.cut(5)
    assert (bench.queue.end, bench.queue.in_flight) == (5, 5)
    assert bench.acquire("c", 5, 9) == [(5, 9, 1)]
    with pytest.raises(RecordNotHeld):
        bench.settle("b", (10, 10, ACCEPT))


def test_whole_batches_cost_little():
    """As many spans as there are fates, not as there are records."""
    bench = Bench()
    for at in range(0, 10_000, 500):
        bench.acquire("a", at, at + 499)
    assert len(bench.queue.records()) == 20
    bench.settle("a", (0, 9_999, RELEASE))
    assert len(bench.acquire("b", 0, 9_999, most=10_000)) == 1
    bench.settle("b", (0, 9_999, ACCEPT))
    assert bench.queue.records() == ()


def test_the_heaps_do_not_grow_without_bound():
    """However often a record is put off."""
    bench = Bench()
    for _ in range(1_000):
        bench.acquire("a", 0, 0)
        bench.settle("a", (0, 0, RELEASE, 10), limit=10**9)
        bench.now += 1
    assert len(bench.queue._delayed) + len(bench.queue._ready) <= 2 + queues.SLACK + 1


# --- a model ----------------------------------------------------------------------------------------

OFFSETS_MAX = 40
MEMBERS = st.sampled_from("abc")
OFFSETS = st.integers(0, OFFSETS_MAX)


class Record:
    """One record by the model. `due`: when its lock expires, or it may be given out."""

    def __init__(self):
        self.holder, self.count, self.due, self.asked = "", 0, 0.0, False


class QueueAgainstModel(RuleBasedStateMachine):
    """The same words to the queue, and to a dict of offsets."""

    @initialize(start=st.integers(0, 10))
    def begin(self, start):
        self.bench = Bench(start)
        self.end = start
        self.live = {}  # offset: Record
        self.done = set()
        self.dead = {}  # offset: how often it was reported
        self.reported = 0

    def finish(self, offset):
        del self.live[offset]
        assert offset not in self.done
        self.done.add(offset)

    def free(self, offset, due=0.0, *, counts=True):
        record = self.live[offset]
        if counts and record.count >= LIMIT:
            self.finish(offset)
            self.dead[offset] = 1
            return
        record.holder, record.due, record.asked = "", due, False
        record.count -= not counts

    @rule(member=MEMBERS, first=OFFSETS, count=st.integers(0, 20), most=st.integers(1, 30), read_at=OFFSETS)
    def acquire(self, member, first, count, most, read_at):
        bench, left, expected = self.bench, most, []
        read_at = min(read_at, first)
        for offset in range(first, first + count):
            record = self.live.get(offset)
            if record is None and offset >= self.end and left and read_at <= self.end:
                record = self.live[offset] = Record()
            elif record is None or record.holder or record.due > bench.now or not left:
                continue
            left -= 1
            record.holder, record.count, record.asked = member, record.count + 1, False
            record.due = bench.now + LOCK_S
            expected.append((offset, record.count))
        given = bench.acquire(member, first, first + count - 1, most=most, read_at=read_at)
        assert [(at, n) for low, high, n in given for at in range(low, high + 1)] == expected
        if expected:
            self.end = max(self.end, expected[-1][0] + 1)

    @rule(
        member=MEMBERS, first=OFFSETS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
        kinds=st.lists(st.sampled_from([ACCEPT, GAP, RELEASE, REJECT, RENEW, RETURN]), min_size=3, max_size=3),
        ms=st.sampled_from([0, 1_000, 60_000]),
    )  # fmt: skip
    def settle(self, member, first, sizes, kinds, ms):
        bench, endings, at = self.bench, [], first
        for size, kind in zip(sizes, kinds, strict=False):
            endings.append((at, at + size - 1, kind, ms if kind in {RELEASE, RENEW} else 0))
            at += size
        if not all(offset in self.live and self.live[offset].holder == member for offset in range(first, at)):
            with pytest.raises(RecordNotHeld):
                bench.settle(member, *reversed(endings))
            return
        bench.settle(member, *reversed(endings))
        for low, high, kind, wait_ms in endings:
            for offset in range(low, high + 1):
                self.end_one(offset, kind, wait_ms)

    def end_one(self, offset, kind, ms):
        record, now = self.live[offset], self.bench.now
        if kind in {ACCEPT, GAP, REJECT}:
            self.finish(offset)
            if kind == REJECT:
                self.dead[offset] = 1
        elif kind == RENEW:
            due = now + (ms / 1000 if ms else self.lock_s(offset))
            if due > record.due or record.asked:
                record.due, record.asked = due, False
        else:
            self.free(offset, now + ms / 1000 if ms else 0.0, counts=kind != RETURN)

    def lock_s(self, offset):
        """A renewal without a length is as long as the lock was."""
        return next(s.ms for s in self.bench.queue.records() if s.first <= offset <= s.last) / 1000

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 30.0, 61.0]), alive=st.sets(MEMBERS))
    def wait(self, seconds, alive):
        bench = self.bench
        bench.now += seconds
        asked = {(member, at) for member, found in bench.expire(*alive).items() for a, b in found
                 for at in range(a, b + 1)}  # fmt: skip
        expected = set()
        for offset, record in list(self.live.items()):
            if record.holder and record.due <= bench.now:
                if record.holder in alive and not record.asked:
                    record.asked, record.due = True, bench.now + GRACE_S
                    expected.add((record.holder, offset))
                else:
                    self.free(offset)
        assert asked == expected

    @rule(member=MEMBERS)
    def lose(self, member):
        self.bench.release(member)
        for offset in [at for at, record in self.live.items() if record.holder == member]:
            self.free(offset)

    @rule(offset=OFFSETS)
    @precondition(lambda self: self.end < OFFSETS_MAX)
    def trim(self, offset):
        self.bench.keep(self.bench.queue.trim(offset, self.bench.now, self.bench.wall_ms))
        for at in [at for at in self.live if at < offset]:
            self.finish(at)
        self.end = max(self.end, offset)

    @invariant()
    def is_the_same(self):
        if not hasattr(self, "bench"):
            return
        bench, queue = self.bench, self.bench.queue
        shown = {offset: (record.holder, record.count) for offset, record in self.live.items()}
        assert bench.shown() == shown
        assert (queue.end, queue.in_flight) == (self.end, len(shown))
        assert queue.start == min(shown, default=self.end)
        assert all(count <= LIMIT for _, count in shown.values())
        ready = [at for at, record in self.live.items() if not record.holder and record.due <= bench.now]
        assert queue.next_offset(bench.now) == min(ready, default=self.end)
        reports = [at for each in bench.dead for at in range(each.first, each.last + 1)]
        assert sorted(reports) == sorted(self.dead)

    @invariant()
    def replay_gives_the_same(self):
        if hasattr(self, "bench"):
            after = self.bench.replayed()
            assert by_offset(after) == self.bench.shown()
            assert after.end == self.bench.queue.end

    @invariant()
    def locks_are_looked_at_in_time(self):
        if hasattr(self, "bench"):
            dues = [record.due for record in self.live.values() if record.holder]
            assert self.bench.queue.next_due() <= min(dues, default=float("inf"))


TestQueueAgainstModel = QueueAgainstModel.TestCase
TestQueueAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
