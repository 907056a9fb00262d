"""A node that is killed again and again while delayed records come and go: each that was acknowledged comes once."""

import time
from collections import Counter
from random import Random

import trio

import dduomq
from dduomq.errors import DduomqError, DelayedNotFound
from tests.e2e.processes import Node

KILLS = 8
PARTITIONS = 2
TIMEOUT_S = 90


class Sender:
    """Sends, and takes back some; knows of each message what it was told."""

    def __init__(self):
        self.acked, self.unsure, self.cancelled, self.due = set(), set(), set(), {}
        self._rng = Random(7)
        self._number = 0

    async def run(self, mq):
        while True:
            value = f"{self._number}"
            self._number += 1
            self.due[value] = int(time.time() * 1000) + self._rng.randrange(3_000)
            self.unsure.add(value)
            try:
                sent = await mq.send(
                    "t", value, deliver_at=self.due[value], partition=self._number % PARTITIONS
                )  # fmt: skip
                if self._rng.random() < 0.1:
                    await mq.admin.cancel_delayed(sent.delay_id)
                    self.cancelled.add(value)
            except DelayedNotFound:
                pass  # it has come, or a try of this question whose answer was lost has taken it out
            except DduomqError:
                continue
            else:
                self.acked.add(value)
            if value in self.cancelled or value in self.acked:
                self.unsure.discard(value)


async def arrivals(address):
    async with dduomq.connect(address) as mq:
        with trio.fail_after(TIMEOUT_S):
            while await mq.admin.count_delayed():  # noqa: ASYNC110  # it is another process
                await trio.sleep(0.05)
        await trio.sleep(0.5)
        found = []
        for partition in range(PARTITIONS):
            await mq.send("t", "end", partition=partition)
            async with mq.reader("t", partitions=[partition]) as reader:
                async for record in reader:
                    if record.value == b"end":
                        break
                    found.append(record)
        return found


def test_sigkill_while_records_wait_and_come(tmp_path):
    """Eight times, on a real disk."""
    node = Node(tmp_path / "data")
    sender, rng = Sender(), Random(3)

    async def story():
        nonlocal node
        async with dduomq.connect(node.address, delivery_timeout=30.0) as mq, trio.open_nursery() as nursery:
            await mq.admin.create_topic("t", partitions=PARTITIONS)
            for _ in range(5):
                nursery.start_soon(sender.run, mq)
            for _ in range(KILLS):
                await trio.sleep(rng.uniform(0.2, 1.0))
                port = node.port
                await trio.to_thread.run_sync(node.kill)
                node = await trio.to_thread.run_sync(lambda port=port: Node(tmp_path / "data", port=port))
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        return await arrivals(node.address)

    try:
        found = trio.run(story)
    finally:
        node.kill()
    counts = Counter(record.value.decode() for record in found)
    assert len(sender.acked) > 100
    assert not [value for value, count in counts.items() if count > 1]
    assert not sender.acked - sender.cancelled - set(counts)
    assert not sender.cancelled & set(counts)
    for record in found:
        until = int(record.header("dduomq-delayed-until"))
        assert sender.due[record.value.decode()] <= until <= record.timestamp_ms
