"""A node that is killed again and again while records step aside: each is done, or a dead letter, and aside once."""

from collections import Counter
from random import Random

import trio

import dduomq
from dduomq.wire import origin
from tests.e2e.processes import Node

KILLS = 6
RECORDS = 400
LADDER = [0.05, 0.3]
TIMEOUT_S = 120


def tries_needed(value):
    """The try in which the work succeeds; the fourth never comes."""
    return int(value) % 4 + 1


async def handler(record):
    if record.attempt < tries_needed(record.raw_value):
        raise ValueError(f"not in try {record.attempt}")


async def work(address, tries, ended):
    async with dduomq.connect(address) as mq, mq.consumer("t", group="g", retry=LADDER) as consumer:

        async def handle(record):
            number = int(record.raw_value)
            tries.setdefault(number, set()).add(record.attempt)
            await handler(record)
            ended.add(number)

        await consumer.run(handle, concurrency=8, ordered="none")


async def all_of(mq, topic):
    found = []
    for partition in (await mq.admin.describe_topic(topic)).partitions:
        offset = partition.log_start_offset
        while offset < partition.high_watermark:
            records = await mq.pull(topic, partition=partition.partition, offset=offset, wait=0.1)
            found += records
            offset = records[-1].offset + 1
    return found


def test_sigkill_while_records_step_aside(tmp_path):
    """Six times, on a real disk."""
    node, rng = Node(tmp_path / "data"), Random(3)
    tries, ended = {}, set()
    wanted = {n for n in range(RECORDS) if tries_needed(n) <= len(LADDER) + 1}

    async def story():
        nonlocal node
        port = node.port
        async with dduomq.connect(node.address, delivery_timeout=30.0) as mq, trio.open_nursery() as nursery:
            await mq.admin.create_topic("t", partitions=2)
            for n in range(RECORDS):
                await mq.send_async("t", str(n), partition=n % 2)
            await mq.flush()
            nursery.start_soon(work, node.address, tries, ended)
            for _ in range(KILLS):
                await trio.sleep(rng.uniform(0.3, 1.0))
                await trio.to_thread.run_sync(node.kill)
                node = await trio.to_thread.run_sync(lambda: Node(tmp_path / "data", port=port))
            with trio.fail_after(TIMEOUT_S):
                while True:
                    groups = {one.group: one.count for one in await mq.admin.dead_letter_groups()}
                    if ended >= wanted and groups.get("g", 0) >= RECORDS - len(wanted):
                        break
                    await trio.sleep(0.2)
            await trio.sleep(1)
            letters = [int(letter.value) async for letter in mq.admin.dead_letters("g")]
            copies = await all_of(mq, "retry.g")
            nursery.cancel_scope.cancel()
        return letters, copies

    try:
        letters, copies = trio.run(story)
    finally:
        node.kill()
    assert sorted(letters) == sorted(set(range(RECORDS)) - wanted)
    assert ended == wanted
    for n in range(RECORDS):
        assert tries[n] == set(range(1, min(tries_needed(n), len(LADDER) + 1) + 1)), n
    names = (origin.ORIGIN_PARTITION_HEADER, origin.ORIGIN_OFFSET_HEADER, origin.ATTEMPT_HEADER)
    counts = Counter(tuple(record.header(name) for name in names) for record in copies)
    assert max(counts.values()) == 1
    assert len(copies) == sum(min(tries_needed(n) - 1, len(LADDER)) for n in range(RECORDS))
