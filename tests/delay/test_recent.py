"""Which batches of producers are known to be parked, or to have been."""

import pytest

from dduomq.delay.recent import Recent
from dduomq.delay.records import Target
from dduomq.wire.batch import SEQUENCE_MAX

TARGET = Target("t", "an id", 0)


def recent(*origins):
    made = Recent()
    for number, origin in enumerate(origins):
        made.add(TARGET, origin, [(number, number)])
    return made


def test_the_last_batches_of_a_producer_are_known():
    """One that comes again is found, with its messages."""
    held = recent(*((7, 0, sequence) for sequence in range(8)))
    assert held.find(TARGET, (7, 0, 7)) == [(7, 7)]
    assert held.find(TARGET, (7, 0, 3)) == [(3, 3)]
    assert held.find(TARGET, (7, 0, 2)) is None


@pytest.mark.parametrize(
    ("origin", "is_past"),
    [((7, 0, 2), True), ((7, 0, 8), False), ((7, 1, 0), False), ((8, 0, 0), False), ((7, 0, 5), False)],
)
def test_a_batch_that_was_held_up_is_told_from_a_new_one(origin, is_past):
    """It may have been parked, and have come, long ago: it must not be parked again."""
    held = recent(*((7, 0, sequence) for sequence in (3, 4, 5, 6, 7)))
    assert held.is_past(TARGET, origin) is is_past


def test_what_an_earlier_epoch_sent_is_past():
    held = recent((7, 1, 0))
    assert held.is_past(TARGET, (7, 0, 100))
    assert not held.is_past(TARGET, (7, 1, 1))


def test_few_batches_do_not_tell():
    """All that this producer has sent is known: what is not has not been parked."""
    held = recent((7, 0, 3), (7, 0, 4))
    assert not held.is_past(TARGET, (7, 0, 2))


def test_sequences_begin_again_behind_the_last_one():
    held = recent(*((7, 0, (SEQUENCE_MAX - 1 + at) & SEQUENCE_MAX) for at in range(5)))
    assert not held.is_past(TARGET, (7, 0, 4))
    assert held.is_past(TARGET, (7, 0, SEQUENCE_MAX - 3))
