"""Logs of replicas: batches are taken as they lie, and cutting one leaves it as if the rest had never been."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dduomq.errors import CorruptMessage, StorageError
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import PendingBatch
from dduomq.log.replica_log import HIGH_WATERMARK, open_replica
from dduomq.log.segment import LOG, parse_name
from dduomq.log.truncate import reset_log, truncate_log
from dduomq.wire.batch import CONTROL, TRANSACTIONAL, build, check_batches, stamp
from tests.log import helpers
from tests.log.helpers import DIRECTORY, append, batch, opened, pending, read_all
from tests.log.test_transactions import ABORT, COMMIT, aborted_in, data, marker


def replica(files, *, epoch=9, high_watermark=-1, now_ms=2_000, **config):
    return open_replica(
        files, DIRECTORY, helpers.settings(**config), leader_epoch=epoch, topic_id="id", clean=False, now_ms=now_ms,
        high_watermark=high_watermark,
    )[0]  # fmt: skip


def bytes_of(files):
    names = sorted(name for name in files.list(DIRECTORY) if parse_name(name, LOG) is not None)
    return b"".join(files.read(f"{DIRECTORY}/{name}") for name in names)


def copied(payload):
    """The batches of an answer."""
    view = memoryview(bytearray(payload))
    return [PendingBatch(view[at : at + header.size], header) for at, header in check_batches(view)]


def replicate(log, files, payload, now_ms=2_000):
    """Write and flush all of it; how many plans that took."""
    batches, plans = copied(payload), 0
    while batches:
        plan = log.plan_replicate(batches, now_ms)
        plan.run(files)
        log.written(plan, now_ms)
        del batches[: len(plan.outcomes)]
        plans += 1
    flush = log.plan_flush()
    if flush is not None:
        flush.run(files)
        log.flushed(flush.end_offset)
    return plans


def sequences(log):
    """The last batches of each producer; a snapshot has no more of their times than the newest."""
    return {
        pid: [(held.base_sequence, held.last_sequence, held.base_offset, held.last_offset) for held in state.batches]
        for pid, state in log.producers.states.items()
    }


def leader_with(*epochs, per_epoch=10, **config):
    """A leader's files: so many batches in each of these epochs, with a producer and holes among them."""
    files = MemoryFiles()
    sequence = 0
    for epoch in epochs:
        log, _ = opened(files, epoch=epoch, **config)
        for number in range(per_epoch):
            kind = number % 3
            if kind == 0:
                append(log, files, batch(number, count=3, timestamp=1_000 + number))
            elif kind == 1:
                append(log, files, batch(50, pid=5, epoch=0, sequence=sequence))
                sequence += 1
            else:  # one record of five is left, as when the others come later
                hole = build(b"x" * 9, count=1, last_offset_delta=4, base_timestamp=1, max_timestamp=1)
                append(log, files, PendingBatch(memoryview(hole), pending(hole).header, is_own=True))
    return files, log


def test_a_copy_has_the_same_bytes_epochs_and_producers():
    files, leader = leader_with(1, 4, segment_bytes=1024)
    mine = MemoryFiles()
    log = replica(mine, segment_bytes=1024)
    assert replicate(log, mine, bytes_of(files)) > 1
    assert bytes_of(mine) == bytes_of(files)
    assert log.log_end_offset == log.flushed_offset == leader.log_end_offset
    assert log.epochs.entries == leader.epochs.entries
    assert log.producers.states[5].batches == leader.producers.states[5].batches
    assert log.last_epoch == 4
    assert log.high_watermark == 0
    again = replica(mine, segment_bytes=1024)
    assert again.epochs.entries == leader.epochs.entries
    assert sequences(again) == sequences(leader)
    assert read_all(again, mine, upper=again.log_end_offset) == read_all(leader, files)


def test_it_becomes_a_leader_s_log_and_knows_a_duplicate():
    files, leader = leader_with(1)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.leader_epoch = 10
    last = leader.producers.states[5].batches[-1]
    again = batch(50, pid=5, epoch=0, sequence=last.base_sequence)
    new = batch(50, pid=5, epoch=0, sequence=last.base_sequence + 1)
    first, second = append(log, mine, again, new)
    assert first.base_offset == last.base_offset
    assert second.base_offset == leader.log_end_offset
    assert log.epochs.latest == 10


def test_transactions_come_over():
    files = MemoryFiles()
    leader, _ = opened(files)
    append(leader, files, data(1, 0), data(2, 0), data(1, 1))
    append(leader, files, marker(1, ABORT), marker(2, COMMIT), batch(), internal=True)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.advance_high_watermark(3)
    assert log.last_stable_offset == 0  # the markers lie beyond what counts
    log.advance_high_watermark(6)
    assert log.last_stable_offset == 6
    assert aborted_in(log, mine, 0, 6) == aborted_in(leader, files, 0, 6) == ((1, 0),)


@pytest.mark.parametrize("change", ["gap", "again", "old epoch"])
def test_what_does_not_follow_is_refused(change):
    files, _ = leader_with(3)
    mine = MemoryFiles()
    log = replica(mine)
    payload = bytearray(bytes_of(files))
    replicate(log, mine, payload)
    end, more = log.log_end_offset, bytearray(batch().view)
    place = {"gap": (end + 1, 3), "again": (end - 1, 3), "old epoch": (end, 2)}[change]
    stamp(more, 0, *place)
    with pytest.raises(CorruptMessage, match="can't follow"):
        log.plan_replicate(copied(more), 2_000)
    stamp(more, 0, end, 3)
    replicate(log, mine, more)
    assert log.log_end_offset == end + 1


def test_a_high_watermark_is_remembered_and_never_beyond_the_end():
    files, _ = leader_with(1)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.advance_high_watermark(7)
    log.plan_checkpoint().run(mine)
    assert log.plan_checkpoint() is None
    assert replica(mine).high_watermark == 7
    assert replica(mine, high_watermark=9).high_watermark == 9
    assert replica(mine, high_watermark=10_000).high_watermark == log.log_end_offset
    log.advance_high_watermark(8)
    log.plan_close().run(mine)
    assert replica(mine).high_watermark == 8
    mine.replace(f"{DIRECTORY}/{HIGH_WATERMARK}", b"nonsense")
    assert replica(mine).high_watermark == 0


def test_a_log_cut_anywhere_is_as_if_the_rest_had_never_been():
    """At each offset: bytes, epochs and producers are those of a log that got only so much."""
    files, leader = leader_with(1, 4, 6, segment_bytes=1024)
    whole = bytes_of(files)
    headers = check_batches(memoryview(whole))
    for offset in range(1, leader.log_end_offset + 2):
        mine = MemoryFiles()
        log = replica(mine, segment_bytes=1024)
        replicate(log, mine, whole)
        log.advance_high_watermark(offset)
        log.plan_close().run(mine)
        kept = [(at, header) for at, header in headers if header.next_offset <= offset]
        size = kept[-1][0] + kept[-1][1].size if kept else 0
        end = kept[-1][1].next_offset if kept else 0
        assert truncate_log(mine, DIRECTORY, offset) == end
        cut = replica(mine, segment_bytes=1024)
        short = MemoryFiles()
        model = replica(short, segment_bytes=1024)
        replicate(model, short, whole[:size])
        assert bytes_of(mine) == whole[:size]
        assert (cut.log_end_offset, cut.high_watermark) == (end, end)
        assert cut.epochs.entries == model.epochs.entries
        assert sequences(cut) == sequences(model)
        replicate(cut, mine, whole[size:])
        assert bytes_of(mine) == whole
        assert read_all(cut, mine, upper=cut.log_end_offset) == read_all(leader, files)


def test_an_aborted_transaction_that_was_cut_is_forgotten():
    files = MemoryFiles()
    leader, _ = opened(files)
    append(leader, files, data(1, 0))
    append(leader, files, marker(1, ABORT), internal=True)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.plan_close().run(mine)
    truncate_log(mine, DIRECTORY, 1)
    cut = replica(mine)
    assert cut.producers.open_transactions == {1: 0}
    cut.advance_high_watermark(1)
    assert cut.last_stable_offset == 0
    ended = bytearray(marker(1, COMMIT).view)
    stamp(ended, 0, 1, 2)
    replicate(cut, mine, ended)
    cut.advance_high_watermark(2)
    assert cut.last_stable_offset == 2
    assert aborted_in(cut, mine, 0, 2) == ()
    cut.plan_close().run(mine)
    assert aborted_in(replica(mine, high_watermark=2), mine, 0, 2) == ()


def test_a_torn_tail_behind_a_cut_is_no_damage():
    """What was synced once, and cut, is not missed."""
    files, _ = leader_with(1)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.plan_checkpoint().run(mine)
    end = truncate_log(mine, DIRECTORY, 9)
    path = f"{DIRECTORY}/{0:020d}.log"
    mine.write_at(path, [b"torn" * 30], mine.size(path))
    log = replica(mine)
    assert (log.damaged_from, log.log_end_offset) == (None, end)


def test_who_opens_it_may_know_of_an_older_epoch_only():
    """The metadata of a node that starts may be of before: its records are not."""
    files, leader = leader_with(1, 4, 6, segment_bytes=1024)
    mine = MemoryFiles()
    replicate(replica(mine, segment_bytes=1024), mine, bytes_of(files))
    assert replica(mine, epoch=2, segment_bytes=1024).epochs.entries == leader.epochs.entries


def test_nothing_is_left_after_a_reset():
    files, _ = leader_with(1, 4, segment_bytes=1024)
    mine = MemoryFiles()
    log = replica(mine, segment_bytes=1024)
    replicate(log, mine, bytes_of(files))
    log.plan_close().run(mine)
    reset_log(mine, DIRECTORY, 500)
    log = replica(mine, segment_bytes=1024)
    assert (log.log_start_offset, log.log_end_offset, log.high_watermark) == (500, 500, 500)
    assert (log.last_epoch, log.producers.states, log.size_bytes) == (-1, {}, 0)
    more = bytearray(batch().view)
    stamp(more, 0, 500, 7)
    replicate(log, mine, more)
    assert read_all(replica(mine, segment_bytes=1024), mine, 500, upper=501) == [500]


def test_a_cut_before_the_start_of_the_log_is_a_reset():
    files, _ = leader_with(1, segment_bytes=1024)
    mine = MemoryFiles()
    log = replica(mine, segment_bytes=1024)
    replicate(log, mine, bytes_of(files))
    log.advance_high_watermark(log.log_end_offset)
    log.delete_records(20).run(mine)
    truncate_log(mine, DIRECTORY, 15)
    log = replica(mine, segment_bytes=1024)
    assert (log.log_start_offset, log.log_end_offset) == (15, 15)


def test_damage_behind_the_cut_is_forgotten_with_it():
    files, _ = leader_with(1)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    log.plan_checkpoint().run(mine)
    at, bad = check_batches(memoryview(bytes_of(files)))[4]
    mine.contents[f"{DIRECTORY}/{0:020d}.log"][at + 30] ^= 1
    spoilt = replica(mine)
    assert spoilt.damaged_from == bad.base_offset
    truncate_log(mine, DIRECTORY, bad.base_offset)
    cut = replica(mine)
    assert (cut.damaged_from, cut.log_end_offset) == (None, bad.base_offset)
    replicate(cut, mine, bytes_of(files)[at:])
    assert bytes_of(mine) == bytes_of(files)


class Failing(MemoryFiles):
    """Stops for good at the n-th change."""

    def __init__(self, files, changes):
        super().__init__()
        self.contents, self.directories = files.contents, files.directories
        self.left = changes

    def _change(self):
        if not self.left:
            raise StorageError("the power went away")
        self.left -= 1

    def replace(self, path, data, *, sync=True):
        self._change()
        super().replace(path, data, sync=sync)

    def remove(self, path):
        self._change()
        super().remove(path)

    def truncate(self, path, size):
        self._change()
        super().truncate(path, size)


@pytest.mark.parametrize("cut", [("cut", 9), ("cut", 40), ("reset", 700)])
def test_a_crash_at_any_step_leaves_a_log_that_opens(cut):
    """It is never taken for damage, what is kept is what was there, and the cut can be made again."""
    files, _ = leader_with(1, 4, segment_bytes=1024)
    whole = bytes_of(files)
    kind, offset = cut
    make = truncate_log if kind == "cut" else reset_log
    for changes in range(200):
        mine = MemoryFiles()
        log = replica(mine, segment_bytes=1024)
        replicate(log, mine, whole)
        log.advance_high_watermark(log.log_end_offset)
        log.plan_close().run(mine)
        failing = Failing(mine, changes)
        try:
            make(failing, DIRECTORY, offset)
        except StorageError:
            pass
        else:
            break
        half = replica(mine, segment_bytes=1024)
        assert half.damaged_from is None
        assert whole.startswith(bytes_of(mine))
        make(mine, DIRECTORY, offset)
        after = replica(mine, segment_bytes=1024)
        assert after.log_end_offset <= offset
        assert after.damaged_from is None
    assert 5 < changes < 199


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 300), st.booleans()), min_size=1, max_size=25),
    st.lists(st.integers(1, 8), min_size=1, max_size=10),
    st.integers(1024, 3000),
)
def test_any_batches_in_any_pieces_make_the_same_log(shapes, pieces, segment_bytes):
    files = MemoryFiles()
    leader, _ = opened(files, segment_bytes=segment_bytes)
    for number, (count, size, is_idempotent) in enumerate(shapes):
        known = {"pid": number, "epoch": 0, "sequence": 0} if is_idempotent else {}
        append(leader, files, batch(size, count=count, timestamp=number, **known))
    batches = copied(bytes_of(files))
    mine = MemoryFiles()
    log = replica(mine, segment_bytes=segment_bytes)
    at = 0
    while at < len(batches):
        for count in pieces:
            payload = b"".join(bytes(held.view) for held in batches[at : at + count])
            replicate(log, mine, payload)
            at += count
    assert bytes_of(mine) == bytes_of(files)
    assert log.epochs.entries == leader.epochs.entries
    assert set(log.producers.states) == set(leader.producers.states)
    assert log.max_timestamp() == leader.max_timestamp()
    reopened = replica(mine, segment_bytes=segment_bytes)
    assert reopened.log_end_offset == leader.log_end_offset


def test_control_batches_are_kept_as_they_are():
    assert marker(1, COMMIT).header.attributes == TRANSACTIONAL | CONTROL
    files = MemoryFiles()
    leader, _ = opened(files)
    append(leader, files, marker(1, COMMIT), internal=True)
    mine = MemoryFiles()
    log = replica(mine)
    replicate(log, mine, bytes_of(files))
    assert bytes_of(mine) == bytes_of(files)
    assert log.log_end_offset == 1
