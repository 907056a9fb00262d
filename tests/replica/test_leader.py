"""What a leader knows of its followers, as a machine: tables, and chance against a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dduomq.replica.leader import Leadership

LAG = 10.0


def leading(isr=(1, 2, 3), *, min_isr=1, epoch_start=0):
    return Leadership(1, (1, 2, 3), isr, min_isr=min_isr, epoch_start=epoch_start, now=0.0, lag_max_s=LAG)


def fetch(leadership, node, position, *, end=100, now=1.0, epoch=7):
    leadership.fetched(node, position, epoch, log_end=end, now=now)


@pytest.mark.parametrize(
    ("isr", "min_isr", "positions", "own", "before", "expected"),
    [
        ((1,), 1, {}, 9, 0, 9),  # alone: its own disk is all that counts
        ((1, 2), 1, {}, 9, 0, 0),  # nobody knows what 2 has
        ((1, 2), 1, {2: 4}, 9, 0, 4),
        ((1, 2), 1, {2: 12}, 9, 0, 9),  # a follower may have synced before its leader
        ((1, 2), 1, {2: 4}, 9, 6, 6),  # it never goes back
        ((1, 2, 3), 1, {2: 4, 3: 2}, 9, 0, 2),
        ((1, 2), 1, {2: 8, 3: 2}, 9, 0, 8),  # who is not in sync does not count
        ((1, 2), 3, {2: 8}, 9, 0, 0),  # too few in sync
        ((1, 2, 3), 3, {2: 8, 3: 7}, 9, 0, 7),
        ((1, 2, 3), 5, {2: 8, 3: 7}, 9, 0, 7),  # more than there are replicas can't be asked for
    ],
)
def test_the_high_watermark_is_what_all_in_sync_have(isr, min_isr, positions, own, before, expected):
    leadership = leading(isr, min_isr=min_isr)
    for node, position in positions.items():
        fetch(leadership, node, position)
    assert leadership.high_watermark(own, before) == expected


def test_who_is_not_registered_joins_no_set():
    """Its node epoch is 0 then, and "its registration is still that one" would hold for any node without one."""
    leadership = leading((1,))
    fetch(leadership, 2, 100, epoch=0)
    fetch(leadership, 3, 100)
    assert leadership.joining(100) == (3,)
    fetch(leadership, 2, 100, epoch=8)
    assert leadership.joining(100) == (2, 3)


@pytest.mark.parametrize(("proposed", "expected"), [((1, 2, 3), 5), ((1,), 8)])
def test_while_a_change_is_unknown_the_largest_set_counts(proposed, expected):
    leadership = leading((1, 2))
    fetch(leadership, 2, 8)
    fetch(leadership, 3, 5)
    leadership.propose(proposed)
    assert leadership.is_changing
    assert leadership.high_watermark(10, 0) == expected
    leadership.withdraw()
    assert leadership.high_watermark(10, 0) == 8
    leadership.propose(proposed)
    leadership.assign((1, 2, 3), (1,), 1, now=2.0)
    assert not leadership.is_changing
    assert leadership.high_watermark(10, 0) == 10


def test_the_end_is_known_when_all_in_sync_have_come_to_where_the_epoch_began():
    leadership = leading((1, 2), epoch_start=10)
    assert not leadership.is_known(leadership.high_watermark(10, 6))
    fetch(leadership, 2, 8)
    assert not leadership.is_known(leadership.high_watermark(10, 6))
    fetch(leadership, 2, 10)
    assert leadership.is_known(leadership.high_watermark(10, 8))


def test_who_keeps_up_stays():
    leadership = leading()
    for now in range(1, 60):
        fetch(leadership, 2, now * 10, end=now * 10, now=now)  # at the end each time
        fetch(leadership, 3, now * 10 - 10, end=now * 10, now=now)  # always where the end was before
        assert leadership.lagging(now * 10 - 10, now * 10, now) == ()


def test_who_stops_or_falls_behind_leaves_after_a_while():
    leadership = leading()
    fetch(leadership, 2, 100, end=100, now=5.0)
    fetch(leadership, 3, 50, end=100, now=5.0)
    assert leadership.lagging(50, 100, 10.0) == ()
    assert leadership.lagging(50, 100, 10.1) == (3,)
    for now in (8.0, 12.0, 14.0):
        fetch(leadership, 3, int(50 + now), end=200, now=now)  # it fetches, and never gets there
    assert leadership.lagging(50, 200, 14.9) == (3,)
    assert leadership.lagging(50, 200, 15.1) == (2, 3)


class Standing:
    """A fetch that waits at the leader, of a node that was heard of then."""

    def __init__(self, heard_at, since=1.0):
        self.heard_at, self.since = heard_at, since


def test_who_waits_for_news_keeps_up_as_long_as_it_is_heard_of():
    leadership, standing = leading((1, 2)), Standing(1.0)
    leadership.fetched(2, 100, 7, log_end=100, now=1.0, standing=standing)
    standing.heard_at = 50.0
    assert leadership.lagging(100, 100, 50.0 + LAG) == ()
    assert leadership.lagging(100, 100, 50.1 + LAG) == (2,)


def test_who_has_waited_long_has_its_time_when_news_come():
    """It lacked nothing until then, however long ago it asked."""
    leadership, standing = leading((1, 2)), Standing(1.0)
    leadership.fetched(2, 100, 7, log_end=100, now=1.0, standing=standing)
    standing.heard_at = 50.0
    assert leadership.lagging(100, 200, 51.0) == ()  # nobody has looked at the fetch yet
    leadership.fetched(2, 100, 7, log_end=200, now=51.0, standing=standing)
    standing.heard_at = 80.0  # it is heard of, and does not come on
    assert leadership.lagging(100, 200, 50.0 + LAG) == ()
    assert leadership.lagging(100, 200, 50.1 + LAG) == (2,)


def test_what_was_asked_before_one_was_taken_out_says_nothing_any_more():
    """Nor what was asked before a replica was taken away, and given back."""
    leadership = leading((1, 2, 3))
    assert not leadership.is_void(2, Standing(1.0))
    assert not leadership.is_void(2, None)
    leadership.assign((1, 2), (1,), 1, now=2.0)
    assert leadership.is_void(2, Standing(3.0, since=2.0))
    assert not leadership.is_void(2, Standing(3.0, since=2.1))
    leadership.assign((1, 2, 3), (1,), 1, now=5.0)
    assert leadership.is_void(3, Standing(6.0, since=5.0))
    assert not leadership.is_void(2, Standing(6.0, since=5.0))


def test_who_has_lost_what_counts_leaves_at_once():
    leadership = leading()
    fetch(leadership, 2, 100)
    fetch(leadership, 3, 100)
    fetch(leadership, 3, 40, now=2.0)
    assert leadership.lagging(100, 100, 2.0) == (3,)


def test_who_has_all_that_counts_joins():
    leadership = leading((1,), epoch_start=50)
    assert leadership.joining(20) == ()
    fetch(leadership, 2, 49)
    assert leadership.joining(20) == ()
    fetch(leadership, 2, 50)
    fetch(leadership, 3, 55)
    assert leadership.joining(55) == (3,)
    assert leadership.joining(20) == (2, 3)
    assert leadership.epoch_of(3) == 7
    fetch(leadership, 4, 1_000)  # keeps no replica
    assert leadership.joining(20) == (2, 3)


def test_who_was_taken_out_must_ask_anew():
    leadership = leading()
    for node in (2, 3):
        fetch(leadership, node, 100)
    leadership.assign((1, 2, 3), (1, 2), 1, now=2.0)
    assert leadership.joining(100) == ()
    fetch(leadership, 3, 100)
    assert leadership.joining(100) == (3,)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(0, 50))
def test_it_never_goes_back_whatever_the_followers_say(positions, own):
    leadership, mark = leading((1, 2)), 0
    for position in positions:
        fetch(leadership, 2, position)
        before, mark = mark, leadership.high_watermark(own, mark)
        assert before <= mark <= max(own, before)


class AnyOrder(RuleBasedStateMachine):
    """A leader, two followers and a store whose outcomes come late or are not known.

    The model knows what each really has, and every in-sync set that may hold at the moment.
    """

    @initialize(min_isr=st.integers(1, 3))
    def begin(self, min_isr):
        self.end = self.flushed = self.mark = 0
        self.has = {2: 0, 3: 0}
        self.now = 0.0
        self.min_isr = min_isr
        self.held = (1, 2, 3)  # what the store holds
        self.told = (1, 2, 3)  # what the leader was told last
        self.proposed = None
        self.leadership = Leadership(
            1, (1, 2, 3), self.held, min_isr=min_isr, epoch_start=0, now=0.0, lag_max_s=LAG
        )  # fmt: skip

    def count(self):
        before, self.mark = self.mark, self.leadership.high_watermark(self.flushed, self.mark)
        assert self.mark >= before
        if self.mark > before:
            assert len(self.told) >= self.min_isr
            for node in self.possible():
                has = self.flushed if node == 1 else self.has[node]
                assert self.mark <= has, f"node {node} has {has}"

    def possible(self):
        """Everybody who may be in sync, as far as the leader can know."""
        return {*self.told, *self.held, *(self.proposed or ())}

    @rule(count=st.integers(1, 9))
    def append(self, count):
        self.end += count

    @rule()
    def flush(self):
        self.flushed = self.end
        self.count()

    @rule(node=st.sampled_from([2, 3]), count=st.integers(0, 9))
    def fetch(self, node, count):
        """It has stored some of what there is, and asks for more."""
        self.has[node] = min(self.has[node] + count, self.end)
        self.leadership.fetched(node, self.has[node], 1, log_end=self.end, now=self.now)
        self.count()

    @rule(seconds=st.floats(0.1, 6.0))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.proposed is None)
    @rule()
    def propose(self):
        late = self.leadership.lagging(self.mark, self.end, self.now)
        joining = self.leadership.joining(self.mark)
        wanted = tuple(n for n in (1, 2, 3) if (n in self.told and n not in late) or n in joining)
        if wanted != self.told:
            self.leadership.propose(wanted)
            self.proposed = wanted

    @precondition(lambda self: self.proposed is not None)
    @rule()
    def apply(self):
        """The store takes it, and the leader does not know yet."""
        self.held = self.proposed
        self.count()

    @precondition(lambda self: self.proposed is not None)
    @rule()
    def settle(self):
        """The outcome comes to be known, whichever it is."""
        self.told, self.proposed = self.held, None
        self.leadership.assign((1, 2, 3), self.told, self.min_isr, now=self.now)
        self.count()

    @invariant()
    def no_joiner_lacks_what_counts(self):
        for node in self.leadership.joining(self.mark):
            assert self.has[node] >= self.mark


TestAnyOrder = AnyOrder.TestCase
