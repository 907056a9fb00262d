"""A fetch of several partitions: it waits for news, and only who has some is asked again."""

from collections import Counter

import pytest
import trio

from dduomq.actors.partition import PartitionActor
from dduomq.errors import DduomqError
from dduomq.listeners.admit import Context
from dduomq.listeners.fetch import Wanted, Wish, gather
from tests.delay.test_delayed import running

WHO = Context("anonymous", "test", "main", "here")
PARTITIONS = 5


class Asked:
    """How often each partition was asked, and how many fetches waited at once at most."""

    def __init__(self, monkeypatch):
        self.count, self.waiting_max = Counter(), 0
        plain = PartitionActor._on_fetch

        def on_fetch(actor, message):
            plain(actor, message)
            self.count[int(actor.mailbox.name.rpartition("-")[2])] += 1
            self.waiting_max = max(self.waiting_max, sum(not one.gone for one in actor._watchers))

        monkeypatch.setattr(PartitionActor, "_on_fetch", on_fetch)


async def fetched(node, **fields):
    """The sizes or errors of all parts; all leases are closed."""
    parts = [Wanted("t", at, 0, 10**6) for at in range(PARTITIONS)]
    wish = Wish(parts, **{"isolation": 0, "min_bytes": 1, "max_bytes": 10**6, "max_wait_ms": 10_000, **fields})
    found = await gather(node.services, WHO, wish)
    for item in found:
        if not isinstance(item, DduomqError):
            item.close()
    return [type(item).__name__ if isinstance(item, DduomqError) else item.size for item in found]


@pytest.fixture
def asked(monkeypatch):
    return Asked(monkeypatch)


async def later(mq, pause, *partitions):
    for partition in partitions:
        await trio.sleep(pause)
        await mq.send("t", b"x" * 100, partition=partition)


async def test_only_who_has_news_is_asked_again(autojump_clock, asked):
    async with running() as (_, node, mq), trio.open_nursery() as nursery:
        await mq.admin.create_topic("t", partitions=PARTITIONS)
        asked.count.clear()
        begun = trio.current_time()
        nursery.start_soon(later, mq, 1, 3)
        sizes = await fetched(node)
        assert [size > 0 for size in sizes] == [False, False, False, True, False]
        assert trio.current_time() - begun < 1.5
        assert asked.count == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}


async def test_it_waits_for_as_much_as_was_asked_for(autojump_clock, asked):
    """Of several partitions together; nobody waits twice at one of them, however often there is news."""
    async with running() as (_, node, mq), trio.open_nursery() as nursery:
        await mq.admin.create_topic("t", partitions=PARTITIONS)
        nursery.start_soon(later, mq, 0.1, *[0, 1] * 20)
        sizes = await fetched(node, min_bytes=4_000)
        assert sum(sizes) >= 4_000
        assert min(sizes[:2]) >= 1_500
        assert sizes[2:] == [0, 0, 0]
        assert asked.waiting_max == 1
        assert asked.count[2] == 1
        assert asked.count[0] < 40


async def test_what_is_there_comes_when_the_time_is_over(autojump_clock, asked):
    async with running() as (_, node, mq), trio.open_nursery() as nursery:
        await mq.admin.create_topic("t", partitions=PARTITIONS)
        begun = trio.current_time()
        nursery.start_soon(later, mq, 1, 0, 2)
        sizes = await fetched(node, min_bytes=10**6, max_wait_ms=5_000)
        assert [size > 0 for size in sizes] == [True, False, True, False, False]
        assert trio.current_time() - begun == pytest.approx(5, abs=0.1)


async def test_a_topic_that_goes_ends_the_wait(autojump_clock, asked):
    async with running() as (_, node, mq), trio.open_nursery() as nursery:
        await mq.admin.create_topic("t", partitions=PARTITIONS)
        begun = trio.current_time()

        async def delete():
            await trio.sleep(1)
            await mq.admin.delete_topic("t")

        nursery.start_soon(delete)
        found = await fetched(node)
        assert "UnknownTopicOrPartition" in found
        assert trio.current_time() - begun < 2
