"""SIGKILL under load: nothing acknowledged is lost, doubled or reordered."""

import pytest
import trio

import dduomq
from dduomq.errors import DduomqError
from tests.e2e.processes import Node

KILLS = 50
SENDERS = 4
SECONDS_BETWEEN_KILLS = 0.25


class Load:
    """Senders that count upward, each into its own partition, and remember what was acknowledged."""

    def __init__(self):
        self.acked = [[] for _ in range(SENDERS)]
        self.unknown = [set() for _ in range(SENDERS)]
        self.running = True

    async def send(self, mq, sender):
        number = 0
        while self.running:
            try:
                result = await mq.send("load", f"{number}", partition=sender)
                self.acked[sender].append((result.offset, number))
            except DduomqError:
                self.unknown[sender].add(number)
            number += 1


async def _everything(address):
    """All records of each partition, as numbers in log order."""
    found = []
    async with dduomq.connect(address) as mq:
        for partition in range(SENDERS):
            numbers = []
            async with mq.reader("load", partitions=[partition]) as reader:
                end = await mq.admin.offset("load", partition, "latest")
                while reader.position(partition) < end:
                    numbers += [(record.offset, int(record.value)) for record in await reader.pull(10_000)]
            found.append(numbers)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["fsync", "pagecache"])
async def test_fifty_kills_lose_double_and_reorder_nothing(tmp_path, durability):
    """The page cache outlives the process, so this holds at both levels."""
    kills = KILLS if durability == "fsync" else 10
    node = Node(tmp_path / "data", "--set", f"topic.durability={durability}")
    load = Load()
    async with (
        dduomq.connect(node.address, request_timeout=1.0, delivery_timeout=60.0) as mq,
        trio.open_nursery() as nursery,
    ):
        await mq.admin.create_topic("load", partitions=SENDERS)
        for sender in range(SENDERS):
            nursery.start_soon(load.send, mq, sender)
        for _ in range(kills):
            await trio.sleep(SECONDS_BETWEEN_KILLS)
            await trio.to_thread.run_sync(node.kill)
            port = node.port
            node = await trio.to_thread.run_sync(lambda port=port: Node(tmp_path / "data", port=port))
        await trio.sleep(SECONDS_BETWEEN_KILLS)
        load.running = False
    found = await _everything(node.address)
    assert node.stop() == 0
    for sender in range(SENDERS):
        numbers = [number for _, number in found[sender]]
        assert len(load.acked[sender]) >= kills, "the load must have flowed between the kills"
        assert len(set(numbers)) == len(numbers), "a record is there twice"
        assert numbers == sorted(numbers), "records are out of order"
        assert set(load.acked[sender]) <= set(found[sender]), "an acknowledged record is lost or has moved"
        assert [offset for offset, _ in found[sender]] == list(range(len(found[sender])))
