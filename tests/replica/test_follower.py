"""What a follower does with an answer: the tables of KIP-101."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.log.epochs import EpochCache
from dduomq.replica.follower import Answer, Append, Own, Reset, Truncate, decide


def own(end, *epochs, start=0, damaged_from=None):
    return Own(start, end, EpochCache(epochs), damaged_from)


@pytest.mark.parametrize(
    ("mine", "answer", "expected"),
    [
        (own(10, (0, 0)), Answer(10, 0, 12), Append()),
        (own(10, (0, 0)), Answer(10, 0, 12, (0, 8)), Truncate(8)),  # the leader's epoch 0 ended earlier
        (own(10, (0, 0), (1, 6)), Answer(10, 0, 12, (0, 8)), Truncate(6)),  # ours ended even earlier
        (own(10, (0, 0), (2, 6)), Answer(10, 0, 12, (1, 9)), Truncate(6)),  # we never had its epoch 1
        (own(10, (3, 0)), Answer(10, 0, 12, (2, 9)), Reset(0)),  # nothing in common
        (own(10, (3, 5), start=5), Answer(10, 0, 12, (2, 9)), Reset(5)),
        (own(10), Answer(10, 0, 12, (2, 9)), Reset(9)),  # no history at all
        (own(10, (0, 0)), Answer(40, 30, 50), Reset(30)),  # what we need is gone
        (own(0), Answer(40, 30, 50), Reset(30)),
        (own(60), Answer(40, 30, 50), Truncate(50)),
        (own(10, (0, 0), damaged_from=4), Answer(10, 0, 12), Truncate(4)),
        (own(10, (0, 0), damaged_from=4), Answer(9, 0, 12), Append()),  # the leader may not have all of it yet
        (own(10, (0, 0), damaged_from=4), Answer(10, 5, 12), Append()),  # nor has it that any more
    ],
)
def test_what_is_done(mine, answer, expected):
    assert decide(mine, answer) == expected


histories = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=5)


def _history(pieces):
    """Epochs with their lengths, as a log: (end, cache, the epoch of each offset)."""
    entries, each, epoch = [], [], -1
    for step, length in pieces:
        epoch = epoch + 1 + step
        entries.append((epoch, len(each)))
        each += [epoch] * length
    return len(each), EpochCache(tuple(entries)), each


@given(histories, histories, histories)
def test_logs_that_parted_become_one_in_a_few_steps(common, ours, theirs):
    """No epoch has two leaders, so behind what is common the two have no epoch in common."""
    prefix = len(common)
    pieces_ours = [*common, *((2 * step + 1, length) for step, length in ours)]
    pieces_theirs = [*common, *((2 * step, length) for step, length in theirs)]
    end, mine, each = _history(pieces_ours)
    their_end, leader, their_each = _history(pieces_theirs)
    theirs_only = set(their_each[sum(length for _, length in common) :])
    if theirs_only & set(each[sum(length for _, length in common) :]):
        return  # chance gave both the same epoch: no two leaders have that
    for _ in range(prefix + len(ours) + len(theirs) + 2):
        last = mine.latest if end else -1
        found = leader.end_offset_of(last, their_end)
        parts = last >= 0 and found[0] >= 0 and not (found[0] == last and found[1] >= end)
        if not parts and end <= their_end:
            break
        decision = decide(Own(0, end, mine), Answer(0, 0, their_end, found if parts else None))
        assert isinstance(decision, Truncate | Reset)
        assert decision.offset < end
        end = decision.offset
        mine = EpochCache(mine.entries)
        mine.truncate(end)
    else:
        raise AssertionError("it never ends")
    assert each[:end] == their_each[:end]
