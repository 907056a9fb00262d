"""The timing wheel against a plain list, in any order of events, with a clock that jumps."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dduomq.delay import timeline
from dduomq.delay.timeline import HOUR, MINUTE, SECOND, Entry, Timeline

START = 1_700_000_000_000
DAY = 24 * HOUR
AWAY = st.one_of(
    st.integers(-10, 5 * SECOND), st.integers(0, 3 * MINUTE), st.integers(0, 3 * HOUR), st.integers(0, 900 * DAY)
)


class Model(RuleBasedStateMachine):
    """`here` is what is in it."""

    def __init__(self):
        super().__init__()
        self.now = START
        self.timeline = Timeline(START)
        self.here = {}
        self.number = 0

    @rule(away=AWAY, which=st.integers(0, 3))
    def add(self, away, which):
        self.number += 1
        entry = Entry(self.now + away, self.number, self.number * 10, which)
        self.timeline.add(entry)
        self.here[self.number] = entry

    @rule(aways=st.lists(AWAY, max_size=8), which=st.integers(0, 3))
    def fill(self, aways, which):
        entries = [Entry(self.now + away, self.number + n, 7, which) for n, away in enumerate(aways, 1)]
        self.number += len(entries)
        self.timeline.fill(map(tuple, entries))
        self.here.update((entry.number, entry) for entry in entries)

    @rule(step=AWAY, limit=st.integers(1, 5))
    def pop(self, step, limit):
        self.now += step
        due = sorted(entry for entry in self.here.values() if entry.due_ms <= self.now)
        taken = self.timeline.pop(self.now, limit)
        assert taken == due[:limit]
        for entry in taken:
            del self.here[entry.number]

    @rule(back=st.integers(0, 2 * DAY))
    def set_back(self, back):
        self.now -= back

    @rule(at=st.integers(0, 1_000))
    def remove(self, at):
        if self.here:
            entry = sorted(self.here.values())[at % len(self.here)]
            assert self.timeline.find(entry.due_ms, entry.number) == entry
            assert self.timeline.remove(entry.due_ms, entry.number) == entry
            del self.here[entry.number]
            assert self.timeline.remove(entry.due_ms, entry.number) is None

    @rule(rng=st.randoms(use_true_random=False))
    def move(self, rng):
        some = {n: entry for n, entry in self.here.items() if rng.random() < 0.5}
        self.timeline.move({n: (entry.due_ms, entry.offset + 7) for n, entry in some.items()})
        self.here.update({n: entry._replace(offset=entry.offset + 7) for n, entry in some.items()})
        pairs = [(entry.due_ms, n) for n, entry in self.here.items()]
        assert self.timeline.alive([*pairs, (self.now, 10**9)]) == set(self.here)

    @invariant()
    def lists_all_in_order(self):
        assert len(self.timeline) == len(self.here)
        ordered = sorted(self.here.values())
        assert list(self.timeline.entries((-1, -1), {0, 1, 2, 3})) == ordered
        if ordered:
            middle = ordered[len(ordered) // 2]
            behind = [entry for entry in ordered if entry[:2] > middle[:2] and entry.target == 2]
            assert list(self.timeline.entries(middle[:2], {2})) == behind

    @invariant()
    def knows_when_to_look_next(self):
        at = self.timeline.next_ms()
        assert (at is None) == (not self.here)
        if self.here:
            assert at <= min(entry.due_ms for entry in self.here.values())


class CrowdedModel(Model):
    """The same where three entries are a crowd."""

    def __init__(self):
        self.crowd, timeline.CROWD = timeline.CROWD, 3
        super().__init__()

    def teardown(self):
        timeline.CROWD = self.crowd


TestModel = Model.TestCase
TestCrowdedModel = CrowdedModel.TestCase
TestCrowdedModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(3))
def test_years_pass(seed):
    """Ten years of messages, looked at only when it says so: each at its time, none early."""
    rng, now = Random(seed), START
    timeline = Timeline(now)
    due = [now + rng.randrange(rng.choice((MINUTE, DAY, 3_650 * DAY))) for _ in range(500)]
    for number, at in enumerate(due):
        timeline.add(Entry(at, number, number, 0))
    seen, looks = [], 0
    while (at := timeline.next_ms()) is not None:
        now = max(now, at)
        looks += 1
        for entry in timeline.pop(now, 10):
            assert entry.due_ms == now
            seen.append(entry.number)
    assert sorted(seen) == list(range(500))
    assert looks < 5_000
