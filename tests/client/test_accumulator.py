"""The accumulator: coalescing, order, retries, sequences, ends."""

import pytest

from dduomq.client.accumulator import IN_FLIGHT_MAX, Item, PartitionQueue
from dduomq.errors import (
    DiskFull,
    InvalidRecord,
    LeaderNotAvailable,
    MessageTooLarge,
    NetworkError,
    NodeStopping,
    OutcomeUnknown,
    OutOfOrderSequence,
    Overloaded,
    RequestTimedOut,
    StorageError,
)
from dduomq.wire import native
from dduomq.wire.batch import read_header
from dduomq.wire.compress import Compression


class Results:
    """Collects how each record ended."""

    def __init__(self):
        self.ended = {}

    def item(self, name, *, deadline=30.0, size=10):
        def done(result, error):
            assert name not in self.ended, "a record ended twice"
            self.ended[name] = result.offset if error is None else type(error)

        return Item(1, None, name.encode().ljust(size), [], deadline, done)


@pytest.fixture
def results():
    return Results()


@pytest.fixture
def queue():
    made = PartitionQueue("t", 0, Compression.NONE, 1_000, 1_000)
    made.identify(7, 0)
    return made


def answer(base_offset):
    return native.ProducedPart(0, None, base_offset, -1, 0, "fsync")


def sequence(batch):
    header = read_header(batch.data)
    return header.producer_epoch, header.base_sequence, header.count


def test_what_arrives_meanwhile_leaves_together(queue, results):
    """The first record leaves at once, all that come while it is under way leave in one batch."""
    queue.add(results.item("a"))
    first = queue.next_batch(0)
    for name in "bcd":
        queue.add(results.item(name))
    assert queue.next_batch(0) is None
    queue.succeeded(first, answer(0))
    second = queue.next_batch(0)
    assert (first.count, second.count) == (1, 3)
    queue.succeeded(second, answer(1))
    assert results.ended == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert queue.is_empty
    assert queue.waiting_bytes == 0


def test_full_batches_need_not_wait_and_are_bounded(queue, results):
    """At most five are under way."""
    for number in range(100):
        queue.add(results.item(f"{number:03d}", size=300))
    batches = []
    while (batch := queue.next_batch(0)) is not None:
        batches.append(batch)
    assert len(batches) == IN_FLIGHT_MAX
    assert all(len(batch.data) <= 1_000 for batch in batches)


def test_sequences_follow_one_another(queue, results):
    """Each batch begins where the one before ended."""
    for names in ("a", "bcd", "e"):
        for name in names:
            queue.add(results.item(name))
        batch = queue.next_batch(0)
        queue.succeeded(batch, answer(0))
        last = sequence(batch)
    assert last == (0, 4, 1)


def test_a_retry_is_the_same_bytes(queue, results):
    """So that the broker can tell a duplicate."""
    queue.add(results.item("a"))
    batch = queue.next_batch(0)
    before = bytes(batch.data)
    queue.failed(batch, OutcomeUnknown(), 1.0, 0.5)
    assert queue.next_batch(1.2) is None, "it waits for the back-off"
    again = queue.next_batch(1.5)
    assert again is batch
    assert bytes(again.data) == before


def test_while_one_is_retried_nothing_overtakes_it(queue, results):
    """Failed batches go again one by one, in their order."""
    for number in range(20):
        queue.add(results.item(f"{number:02d}", size=300))
    first, second, third = (queue.next_batch(0) for _ in range(3))
    queue.failed(second, NetworkError(), 0, 0)
    queue.failed(first, NetworkError(), 0, 0)
    assert queue.next_batch(0) is None, "the third is still under way"
    queue.failed(third, OutOfOrderSequence(), 0, 0)
    assert queue.next_batch(0) is first
    assert queue.next_batch(0) is None
    queue.succeeded(first, answer(0))
    assert queue.next_batch(0) is second
    queue.succeeded(second, answer(2))
    assert queue.next_batch(0) is third
    assert sequence(third)[0] == 0, "it kept its place: only what came before it was missing"


def test_a_record_that_can_not_be_stored_ends_at_once(queue, results):
    """Its sequence is missing now, so the next batch needs a new epoch."""
    queue.add(results.item("a"))
    queue.failed(queue.next_batch(0), InvalidRecord(), 0, 0)
    assert results.ended == {"a": InvalidRecord}
    queue.add(results.item("b"))
    assert queue.next_batch(0) is None
    assert queue.may_identify
    queue.identify(7, 1)
    assert sequence(queue.next_batch(0)) == (1, 0, 1)


def test_a_gap_is_closed_under_a_new_epoch(queue, results):
    """The broker says that what came before is missing: the batch is surely not stored, and is numbered anew."""
    queue.add(results.item("a"))
    queue.succeeded(queue.next_batch(0), answer(0))
    queue.add(results.item("b"))
    batch = queue.next_batch(0)
    queue.failed(batch, OutOfOrderSequence(), 0, 0)
    assert queue.may_identify
    queue.identify(7, 1)
    assert queue.next_batch(0) is batch
    assert sequence(batch) == (1, 0, 1)


def test_the_delivery_time_ends_everything(queue, results):
    """What was never sent has failed; what may be stored is unknown."""
    queue.add(results.item("sent", deadline=5))
    queue.failed(queue.next_batch(0), OutcomeUnknown(), 0, 0)
    queue.add(results.item("waiting", deadline=5))
    queue.expire(6)
    assert results.ended == {"sent": OutcomeUnknown, "waiting": RequestTimedOut}
    assert queue.is_empty


def test_a_late_failure_is_final(queue, results):
    """A retriable error after the delivery time is the end; a doubt from before stays a doubt."""
    queue.add(results.item("a", deadline=5))
    batch = queue.next_batch(0)
    queue.failed(batch, OutcomeUnknown(), 1, 0)
    queue.failed(queue.next_batch(2), Overloaded(), 6, 0)
    assert results.ended == {"a": OutcomeUnknown}


@pytest.mark.parametrize("error", [StorageError("fdatasync failed"), LeaderNotAvailable(), NodeStopping()])
def test_what_the_broker_gave_up_on_may_be_stored(queue, results, error):
    """It may have been written before the sync failed, or before its partition crashed."""
    queue.add(results.item("a", deadline=5))
    queue.failed(queue.next_batch(0), error, 6, 0)
    assert results.ended == {"a": OutcomeUnknown}


def test_a_record_can_be_withdrawn_until_it_is_in_a_request(queue, results):
    """Afterwards it can't."""
    first, second = results.item("a"), results.item("b")
    queue.add(first)
    assert queue.withdraw(first)
    queue.add(second)
    batch = queue.next_batch(0)
    assert batch.count == 1
    assert not queue.withdraw(second)


def test_a_record_that_fits_nowhere_is_refused(queue, results):
    """The topic's bound is named."""
    with pytest.raises(MessageTooLarge, match=r"max\.message\.bytes"):
        queue.add(results.item("a", size=2_000))


def test_closing_tells_everybody(queue, results):
    """Records in every stage end."""
    for number in range(10):
        queue.add(results.item(f"{number}", size=300))
    queue.next_batch(0)
    queue.failed(queue.next_batch(0), NetworkError(), 0, 9)
    queue.fail_all(OutcomeUnknown("closed"))
    assert set(results.ended.values()) == {OutcomeUnknown}
    assert len(results.ended) == 10


def test_a_record_that_is_late_says_what_was_in_its_way(queue):
    """A broker whose disk is full is not a slow network: who waits must read what to do."""
    errors = []
    for deadline in (5.0, 6.0):
        queue.add(Item(1, None, b"v", [], deadline, lambda _result, error: errors.append(error)))
        batch = queue.next_batch(0)
        if batch is not None:
            queue.failed(batch, DiskFull("free some space"), 1, 1)
    queue.expire(10)
    assert [(type(error), error.message) for error in errors] == [(DiskFull, "free some space")] * 2


def test_a_record_that_was_never_sent_is_not_said_to_be_unknown(queue):
    """What happened to the batch before it explains the delay, no more."""
    errors = []
    queue.add(Item(1, None, b"v", [], 5.0, lambda _result, error: errors.append(error)))
    queue.failed(queue.next_batch(0), NetworkError("nobody answers"), 1, 1)
    queue.add(Item(1, None, b"v", [], 5.0, lambda _result, error: errors.append(error)))
    queue.expire(10)
    unsent, sent = errors
    assert (type(unsent), type(sent)) == (RequestTimedOut, OutcomeUnknown)
    assert "nobody answers" in unsent.message


def test_a_record_larger_than_a_batch_leaves_alone(results):
    """How much gathers is the client's choice; how large a record may be is the topic's."""
    queue = PartitionQueue("t", 0, Compression.NONE, 1_000, 5_000)
    queue.identify(7, 0)
    for name, size in (("a", 10), ("big", 3_000), ("b", 10)):
        queue.add(results.item(name, size=size))
    counts = []
    while (batch := queue.next_batch(0)) is not None:
        counts.append(batch.count)
        queue.succeeded(batch, answer(0))
    assert counts == [1, 1, 1]
    with pytest.raises(MessageTooLarge, match="takes 5000"):
        queue.add(results.item("huge", size=6_000))
