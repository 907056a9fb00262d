"""Single records of a partition: those that are there are given, whatever lies between and however it is stored."""

import pytest
import trio

from dduomq.actors import record_reader
from dduomq.actors.actor import Mailbox, ask
from dduomq.actors.partition_messages import Append, Fetch, FetchPlan, Purge
from dduomq.actors.record_reader import PieceFound, RecordReader, read_piece
from dduomq.errors import InvariantBroken, LeaderNotAvailable, StorageError
from dduomq.log.plog import PendingBatch
from dduomq.wire.batch import CONTROL, HEADER_BYTES, build, read_header, stamp
from dduomq.wire.compress import Compression, compress
from dduomq.wire.records import BatchBuilder, encode
from tests.delay.helpers import one_machine
from tests.delay.test_delayed import running

ROOM = 1_000_000


class Owner:
    """Stands for the actor: one reader, and its mailbox."""

    def __init__(self, disk):
        self.mailbox = Mailbox("owner")
        self.damaged = []
        self.ended = []
        self.reader = RecordReader(self.mailbox, disk, lambda r: r.value, lambda at, error: self.damaged.append(at))

    async def turn(self):
        for message in await self.mailbox.drain():
            if isinstance(message, PieceFound):
                self.reader.found(message)
            else:
                self.reader.read_done(message)

    async def read(self, partition, offsets, room=ROOM):
        results = []
        self.reader.read(partition, offsets, room, results.append)
        with trio.fail_after(60):
            while self.reader.is_busy:
                await self.turn()
        (found,) = results
        return found


def batch_of(values, *, deltas=None, compression=Compression.NONE, attributes=0, last=None):
    """A batch with these records in these places, holes between them."""
    deltas = list(range(len(values))) if deltas is None else deltas
    builder = BatchBuilder()
    for delta, value in zip(deltas, values, strict=True):
        assert builder.append(1_700_000_000_000, b"k", value, [("h", b"x")], delta)
    plain = memoryview(builder.build())[HEADER_BYTES:] if values else b""
    last = (deltas[-1] if deltas else 0) if last is None else last
    return build(
        compress(compression, plain), count=len(values), last_offset_delta=last, base_timestamp=1_700_000_000_000,
        max_timestamp=1_700_000_000_000, attributes=attributes | int(compression),
    )  # fmt: skip


async def append(partition, batch):
    pending = PendingBatch(memoryview(batch), read_header(batch), is_own=True)
    return await ask(partition, lambda reply: Append(batch=pending, deadline=float("inf"), reply=reply))


async def topic(node, mq, **config):
    await mq.admin.create_topic("t", partitions=1, config=config)
    return node.services.routes.table["t"].partitions[0], node.services.disk._disk


@pytest.mark.parametrize("compression", list(Compression))
async def test_what_is_wanted_is_given_from_plain_and_compressed_batches(autojump_clock, compression):
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        for first in range(0, 300, 3):
            await append(
                partition, batch_of([b"%d" % n * 500 for n in range(first, first + 3)], compression=compression)
            )
        owner, wanted = Owner(disk), [299, 7, 0, 8, 150, 7]
        found = await owner.read(partition, wanted)
        assert found == {n: b"%d" % n * 500 for n in wanted}
        assert await owner.read(partition, []) == {}
        assert owner.damaged == []


async def test_holes_and_batches_of_nothing_are_passed_over(autojump_clock):
    """As delayed records and compaction leave them: in a batch, at its end, a whole one."""
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        await append(partition, batch_of([b"1", b"3"], deltas=[1, 3], last=4))
        await append(partition, batch_of([], last=4))
        await append(partition, batch_of([b"10"]))
        assert await Owner(disk).read(partition, range(20)) == {1: b"1", 3: b"3", 10: b"10"}
        assert await Owner(disk).read(partition, [0, 2, 4, 5, 9]) == {}


async def test_what_the_log_has_no_more_is_passed_over(autojump_clock):
    """So is what it never had; what comes behind its end is not waited for."""
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        for n in range(10):
            await append(partition, batch_of([b"%d" % n]))
        await ask(partition, lambda reply: Purge(offset=6, reply=reply))
        owner = Owner(disk)
        assert await owner.read(partition, [0, 3, 5, 6, 9, 10, 11, 500]) == {6: b"6", 9: b"9"}
        assert await owner.read(partition, range(6)) == {}
        assert owner.damaged == []


async def test_control_batches_say_nothing():
    data = batch_of([b"commit"], attributes=CONTROL) + batch_of([b"record"])
    stamp(data, read_header(data).size, 1, 0)

    class Kept:
        def read(self, position, size):
            return bytes(data[position : position + size])

        def close(self):
            pass

    piece = read_piece(FetchPlan(Kept(), 0, len(data), 2, 2, 0), [0, 1], 0, lambda record: record.value)
    assert [(offset, value) for offset, value, _ in piece.found] == [(1, b"record")]
    assert (piece.next_offset, piece.damaged) == (2, [])


async def test_no_more_than_fits_is_read(autojump_clock, monkeypatch):
    monkeypatch.setattr(record_reader, "PIECE_BYTES", 1)
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        for _ in range(10):
            await append(partition, batch_of([b"x" * 1_000]))
        assert sorted(await Owner(disk).read(partition, range(10), room=3_000)) == [0, 1, 2]
        assert sorted(await Owner(disk).read(partition, [5, 6], room=1)) == [5]


async def test_a_damaged_batch_is_told_and_hides_no_other(autojump_clock):
    """Records that can't be read, and a bit that has flipped below the recovery point."""
    async with one_machine() as machine:
        async with running(machine) as (_, node, mq):
            partition, disk = await topic(node, mq)
            for n in range(3):
                await append(partition, batch_of([b"good %d" % n]))
            rubbish = build(b"\xff" * 50, count=2, last_offset_delta=1, base_timestamp=0, max_timestamp=0)
            await append(partition, rubbish)
            await append(partition, batch_of([b"good 5", b"flipped"]))
            await append(partition, batch_of([b"good 7"]))
            owner = Owner(disk)
            assert sorted(await owner.read(partition, range(9))) == [0, 1, 2, 5, 6, 7]
            assert owner.damaged == [3, 4]
        for path, inode in machine.platter.files.inodes.items():
            if "/t-0/" in path and path.endswith(".log"):
                machine.platter.flip(path, bytes(inode.content).index(b"flipped"), 1)
        async with running(machine) as (_, node, _):
            owner = Owner(node.services.disk._disk)
            found = await owner.read(node.services.routes.table["t"].partitions[0], [2, 3, 6, 7])
            assert found == {2: b"good 2", 7: b"good 7"}
            assert owner.damaged == [3, 6]


class Away:
    """A partition that gives what it has, then is away for a moment."""

    def __init__(self, box, partition, answers):
        self.box, self.partition, self.answers = box, partition, answers

    async def run(self):
        while True:
            for message in await self.box.drain():
                assert isinstance(message, Fetch)
                if self.answers:
                    self.answers -= 1
                    assert self.partition.offer(message)
                else:
                    message.refuse(LeaderNotAvailable())


async def test_a_partition_that_is_away_ends_the_reading_with_what_was_found(autojump_clock, monkeypatch):
    monkeypatch.setattr(record_reader, "PIECE_BYTES", 1)
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        for n in range(4):
            await append(partition, batch_of([b"%d" % n]))
        away = Away(Mailbox("away"), partition, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(away.run)
            assert await Owner(disk).read(away.box, range(4)) == {0: b"0", 1: b"1"}
            nursery.cancel_scope.cancel()
        full = Mailbox("full", messages_max=0)
        assert await Owner(disk).read(full, range(4)) == {}
        full.close()
        assert await Owner(disk).read(full, range(4)) == {}


async def test_a_log_that_is_cut_while_it_is_read_ends_the_reading(autojump_clock, monkeypatch):
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        await append(partition, batch_of([b"x"]))
        monkeypatch.setattr(record_reader.batch, "iter_headers", lambda _data: iter(()))
        assert await Owner(disk).read(partition, [0]) == {}


async def test_a_disk_that_fails_ends_the_reading(autojump_clock, monkeypatch):
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        await append(partition, batch_of([b"x"]))

        def fail(plan, *_args):
            plan.close()
            raise StorageError("the disk has gone")

        monkeypatch.setattr(record_reader, "read_piece", fail)
        owner = Owner(disk)
        assert await owner.read(partition, [0]) == {}
        assert owner.damaged == []


async def test_who_breaks_off_is_told_once_and_hears_nothing_of_it_later(autojump_clock):
    async with running() as (_, node, mq):
        partition, disk = await topic(node, mq)
        await append(partition, encode([(1_700_000_000_000, None, b"x", [])]))
        owner, found, told = Owner(disk), [], []
        owner.reader.read(partition, [0], ROOM, found.append, told.append)
        error = LeaderNotAvailable()
        owner.reader.reset(error)
        assert told == [error]
        owner.reader.reset(error)
        await owner.turn()  # the answer to the first question, which nobody waits for
        assert (found, told, owner.reader.is_busy) == ([], [error], False)
        assert await owner.read(partition, [0]) == {0: b"x"}
        await owner.reader.quiesce()


async def test_one_reading_at_a_time():
    owner = Owner(Mailbox("disk"))
    owner.reader.read(Mailbox("partition"), [0], ROOM, lambda found: None)
    with pytest.raises(InvariantBroken):
        owner.reader.read(Mailbox("partition"), [0], ROOM, lambda found: None)
