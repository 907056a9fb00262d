"""An actor's own log: what is stored together, in which order, and what its asker is told."""

import structlog
import trio

from dduomq.actors import journal
from dduomq.actors.actor import Mailbox
from dduomq.actors.journal import Fetched, Journal, JournalWorld, Stored
from dduomq.actors.partition_messages import Acked, Append, FetchPlan
from dduomq.errors import CoordinatorNotAvailable, DduomqError, DiskFull
from dduomq.testing.clock import SimClock


class Partition:
    """Stands for the partition: takes appends one by one, and gives offsets."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(journal, "BATCH_BYTES", 100)
        self.box, self.mailbox = Mailbox("partition"), Mailbox("owner")
        world = JournalWorld(self.box, Mailbox("disk"), SimClock(), structlog.get_logger(), CoordinatorNotAvailable)
        self.journal = Journal(self.mailbox, world, lambda batch: [], lambda entry: None)
        self.results = []
        self.counts = []
        self.next_offset = 10

    def store(self, count, size=50):
        self.journal.store_entries([(b"k", bytes(size), [])] * count, self.results.append)

    async def run(self, failing=()):
        """Until nothing is left to append; the appends with these numbers fail."""
        self.journal.flush()
        while self.box.statistics().messages:
            (append,) = await self.box.drain()
            assert isinstance(append, Append)
            if len(self.counts) in failing:
                append.reply.fail(DiskFull())
            else:
                append.reply.set(Acked(self.next_offset, 0, 0, "fsync"))
                self.next_offset += append.batch.header.count
            self.counts.append(append.batch.header.count)
            for message in await self.mailbox.drain():
                assert isinstance(message, Stored)
                self.journal.stored(message)
            self.journal.flush()


async def test_who_stores_more_than_a_batch_is_told_of_its_first_record(monkeypatch):
    """The rewrite of a long log deletes what lies before that offset: a later one would lose what was written anew."""
    partition = Partition(monkeypatch)
    partition.store(3)
    await partition.run()
    assert partition.counts == [1, 1, 1]
    assert [acked.base_offset for acked in partition.results] == [10]


async def test_what_waits_is_one_batch_and_everybody_learns_his_own_place(monkeypatch):
    partition = Partition(monkeypatch)
    monkeypatch.setattr(journal, "BATCH_BYTES", 10_000)
    for count in (2, 1, 3):
        partition.store(count)
    await partition.run()
    assert partition.counts == [6]
    assert [acked.base_offset for acked in partition.results] == [10, 12, 13]


async def test_one_failing_piece_fails_the_whole(monkeypatch):
    partition = Partition(monkeypatch)
    partition.store(3)
    partition.store(1)
    await partition.run(failing={1})
    first, second = partition.results
    assert isinstance(first, CoordinatorNotAvailable)
    assert second.base_offset == 12


async def test_more_than_a_log_takes_at_once_is_refused(monkeypatch):
    partition = Partition(monkeypatch)
    partition.store(1, size=journal.AT_ONCE_BYTES_MAX)
    await partition.run()
    await trio.lowlevel.checkpoint()
    (refused,) = partition.results
    assert isinstance(refused, DduomqError)


async def test_an_append_from_before_a_new_reading_tells_nobody(monkeypatch):
    """Its answer comes late; whoever stores something then is told of his own append, not of that one."""
    partition = Partition(monkeypatch)
    partition.store(1)
    partition.journal.flush()
    (late,) = await partition.box.drain()
    partition.journal.restart(DiskFull())
    partition.store(1)
    partition.journal.flush()
    late.reply.fail(DiskFull())
    (message,) = await partition.mailbox.drain()
    partition.journal.stored(message)
    first, *others = partition.results
    assert isinstance(first, DiskFull)
    assert others == []
    await partition.run()
    assert partition.results[1].base_offset == 10


def test_what_was_read_for_an_actor_that_has_ended_is_closed():
    """Its mailbox refuses all that comes; the file would stay open for ever."""

    class Lease:
        is_closed = False

        def close(self):
            self.is_closed = True

    lease, owner = Lease(), Mailbox("owner")
    owner.close()
    owner.post(Fetched(serial=1, plan=FetchPlan(lease, 0, 9, 9, 9, 0), error=None))
    assert lease.is_closed
