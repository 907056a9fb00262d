"""The wheel's machine over decades of virtual time: a log that is replayed after crashes, targets that know duplicates.

Invariants: each message comes once (I26), never early (I25), also across crashes (I27); a cancelled one never (I28); a
clock that is set back or forward changes none of that (I29).
"""

from random import Random

import attrs
import pytest

from dduomq.delay import records
from dduomq.delay.handover import origin_of
from dduomq.delay.records import NEW, NO_ORIGIN, Fired, Handed, Parked, Position, Target
from dduomq.delay.replay import Replay
from dduomq.delay.timeline import HOUR, MINUTE
from dduomq.wire.batch import HANDOVER_IDS, SEQUENCE_MAX
from dduomq.wire.records import StoredRecord

START = 1_700_000_000_000
DAY = 24 * HOUR
TARGETS = [Target(f"t{n}", f"{n:032x}", n) for n in range(3)]
OWNER = HANDOVER_IDS + 1
STEPS = 400


class Crash(Exception):
    """The process ends here."""


@attrs.define
class Partition:
    """A target: what is in it, and what it knows of its one producer, the wheel."""

    values: list = attrs.field(factory=list)
    epoch: int = -1
    batches: list = attrs.field(factory=list)

    def append(self, epoch, sequence, messages, now):
        """False: the sequence does not follow; a duplicate is taken for stored."""
        span = (sequence, (sequence + len(messages) - 1) & SEQUENCE_MAX)
        if epoch < self.epoch:
            return False
        if epoch == self.epoch and span in self.batches[-5:]:
            return True
        follows = (self.batches[-1][1] + 1) & SEQUENCE_MAX if epoch == self.epoch and self.batches else 0
        if sequence != follows and self.epoch >= 0:
            return False
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, []
        self.batches.append(span)
        self.values += [(message.value, now) for message in messages]
        return True


class Story:
    """One wheel, its log and its targets; `crash_rate` of all steps end in a crash, before or after what they do."""

    def __init__(self, seed, crash_rate):
        self.rng = Random(seed)
        self.crash_rate = crash_rate
        self.now = START
        self.log = {}
        self.next_offset = 0
        self.partitions = {target: Partition() for target in TARGETS}
        self.due = {}
        self.cancelled = set()
        self.in_doubt = set()
        self.arrivals = []
        self.handing = 0  # what the owner hands over next, and repeats until it is answered
        self.start()

    def start(self):
        """Replay the log, then send again what was on its way."""
        replay = Replay(self.now)
        for offset in sorted(self.log):
            replay.apply(self.log[offset])
        self.wheel = replay.finish()
        self.delivered = []
        self.send_due()

    def perhaps_crash(self):
        if self.rng.random() < self.crash_rate:
            raise Crash

    def store(self, encoded):
        """One batch into the log: all of it or nothing. Its first offset."""
        self.perhaps_crash()
        first = self.next_offset
        for key, value, headers in encoded:
            record = StoredRecord(self.next_offset, 0, key, value, headers)
            self.log[self.next_offset] = records.decode(record)
            self.next_offset += 1
        self.perhaps_crash()
        return first

    # --- what may happen ------------------------------------------------------------------------------

    def park(self, number):
        value = b"%d" % number
        due = self.now + self.rng.randrange(self.rng.choice((10, MINUTE, HOUR, 300 * DAY)))
        message = Parked(due, NEW, -1, self.rng.choice(TARGETS), NO_ORIGIN, None, value, [])
        self.due[value] = due
        self.in_doubt.add(value)
        first = self.store([records.encode_parked(message)])
        self.wheel.parked([message], first, self.now)
        self.in_doubt.discard(value)

    def hand(self):
        value = b"handed %d" % self.handing
        due = self.due.setdefault(value, self.now + self.rng.randrange(self.rng.choice((10, HOUR, 300 * DAY))))
        target, origin = self.rng.choice(TARGETS), origin_of(OWNER, self.handing)
        message = Parked(due, NEW, -1, target, origin, None, value, [])
        if self.wheel.known([message]) is None:
            self.wheel.parked([message], self.store([records.encode_parked(message)]), self.now)
        self.perhaps_crash()  # before the owner has its answer
        self.handing += 1

    def pass_time(self):
        self.now += self.rng.randrange(self.rng.choice((10, MINUTE, HOUR, 90 * DAY)))
        if self.rng.random() < 0.1:
            self.now += self.rng.randrange(-DAY, DAY)

    def deliver(self):
        lead_ms = self.rng.choice((0, 20, MINUTE))
        begun = []
        for to, entries in self.wheel.take_due(self.now, lead_ms, self.rng.choice((1, 3, 50)), lambda to: to).items():
            while entries and self.wheel.room(to):
                count = self.rng.randrange(1, len(entries) + 1)
                begun.append(self.wheel.fire(to, entries[:count]))
                entries = entries[count:]
            self.wheel.hold(to, entries)
        if not begun:
            self.send_due()
            return
        entries = [records.encode_fired(fired) for fired in begun]
        if self.delivered:
            entries.append(records.encode_delivered(self.delivered))
            self.delivered = []
        first = self.store(entries)
        for at, fired in enumerate(begun):
            self.wheel.fired_at(fired, first + at)
        self.send_due()

    def send_due(self):
        """One batch after another to each target, if all of it is due."""
        for target in list(self.wheel.open):
            while target in self.wheel.open:
                fired = self.wheel.open[target][0].fired
                if max(due for due, _ in fired.pairs) > self.now:
                    break
                self.send(fired)

    def send(self, fired):
        by_offset = {record.offset: record for record in self.log.values() if isinstance(record, Parked)}
        messages = [by_offset[entry.offset] for entry in self.wheel.entries_of(fired)]
        self.perhaps_crash()
        before = len(self.partitions[fired.target].values)
        taken = self.partitions[fired.target].append(fired.epoch, fired.sequence, messages, self.now)
        self.arrivals += self.partitions[fired.target].values[before:]
        self.perhaps_crash()
        if taken:
            self.wheel.delivered(fired)
            self.delivered.append(fired.offset)
            return
        old = [one.fired for one in self.wheel.open[fired.target]]
        again = self.wheel.fire_again(fired.target, old, fired.epoch + 1, 0)
        delivered = records.encode_delivered(one.offset for one in old)
        first = self.store([*map(records.encode_fired, again), delivered])
        for at, one in enumerate(again, first):
            self.wheel.fired_at(one, at)

    def cancel(self):
        waiting = list(self.wheel.entries((-1, -1), None))
        if waiting:
            entry = self.rng.choice(waiting)
            value = self.log[entry.offset].value
            self.in_doubt.add(value)
            assert self.wheel.cancel([(entry.due_ms, entry.number)]) == [entry]
            self.store([records.encode_cancelled([(entry.due_ms, entry.number)])])
            self.in_doubt.discard(value)
            self.cancelled.add(value)

    def clean(self):
        """Move what counts from the log's beginning to its end, as the actor does."""
        piece = sorted(self.log)[: self.rng.randrange(1, 20)]
        found = [self.log[offset] for offset in piece]
        parked = [one for one in found if isinstance(one, Parked)]
        alive = self.wheel.alive([one.pair for one in parked])
        kept = {one.number: one for one in parked if one.number in alive}
        targets = sorted({one.target for one in found if isinstance(one, Fired | Position)})
        entries = [records.encode_parked(one) for one in kept.values()]
        offsets = {one.offset for one in found if isinstance(one, Fired)}
        again = [
            one.fired
            for open_ in self.wheel.open.values()
            if any(one.touches(offsets, kept) for one in open_)
            for one in open_
        ]
        entries += [records.encode_fired(fired) for fired in again]
        known = [(to, *self.wheel.sequences[to]) for to in targets if to in self.wheel.sequences]
        entries += [records.encode_position(Position(*one)) for one in known]
        owners = {one.origin[0] for one in parked if one.is_handed_over}
        owners |= {one.owner for one in found if isinstance(one, Handed)}
        entries += [records.encode_handed(Handed(owner, self.wheel.handed[owner])) for owner in sorted(owners)]
        if self.delivered:
            entries.append(records.encode_delivered(self.delivered))
            self.delivered = []
        first = self.store(entries)
        self.wheel.move({number: (one.due_ms, first + at) for at, (number, one) in enumerate(kept.items())})
        for at, fired in enumerate(again, first + len(kept)):
            self.wheel.fired_at(fired, at)
        self.perhaps_crash()
        for offset in piece:
            del self.log[offset]

    def step(self, number):
        often = (self.park, self.deliver, self.hand) * 2
        act = self.rng.choice((*often, self.pass_time, self.cancel, self.clean))
        try:
            act(number) if act == self.park else act()
        except Crash:
            self.restart()

    def restart(self):
        while True:
            try:
                self.start()
                return
            except Crash:
                continue

    def end(self):
        """No more crashes, and time enough for everything."""
        self.crash_rate = 0.0
        self.hand()
        self.now = max(self.now, *self.due.values()) + DAY
        for _ in range(len(self.due) + 10):
            self.deliver()
        assert self.wheel.count == 0

    def check(self):
        came = [value for value, _ in self.arrivals]
        assert len(came) == len(set(came)), "I26: one came twice"
        assert all(at >= self.due[value] for value, at in self.arrivals), "I25: one came early"
        assert not self.cancelled & set(came), "I28: a cancelled one came"
        assert set(self.due) - self.cancelled - self.in_doubt <= set(came), "I26: one never came"


@pytest.mark.parametrize("crash_rate", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("seed", range(20))
def test_decades_with_crashes(seed, crash_rate):
    story = Story(seed, crash_rate)
    for number in range(STEPS):
        story.step(number)
    story.end()
    story.check()
    assert story.now - START > 365 * DAY
    assert story.handing > 20


@pytest.mark.parametrize("seed", range(10))
def test_targets_that_lose_what_they_knew(seed):
    """A target has forgotten its producers: the wheel begins a new epoch there, and goes on."""
    story = Story(seed, 0.05)
    for number in range(STEPS):
        story.step(number)
        if number % 50 == 49:
            partition = story.partitions[story.rng.choice(TARGETS)]
            partition.epoch, partition.batches = 0, [(10**6, 10**6)]
    story.end()
    came = {value for value, _ in story.arrivals}
    assert set(story.due) - story.cancelled - story.in_doubt <= came
