"""What stories of records that step aside share."""

from contextlib import asynccontextmanager
from random import Random

import anyio
import trio

from dduomq.client.client import connect
from tests.client.test_consuming import until  # noqa: F401
from tests.delay.helpers import kill, one_machine  # noqa: F401  # for the stories
from tests.delay.test_delayed import read, running  # noqa: F401


def place_of(record):
    return record.topic, record.partition, record.offset


class Work:
    """What the handlers of a group did: (value, attempt) of each record, in order."""

    def __init__(self):
        self.seen = []
        self.records = []

    def tries_of(self, value):
        return [attempt for seen, attempt in self.seen if seen == value]


@asynccontextmanager
async def working(machine, work, handler, *topics, group="g", seed=5, run=None, **options):
    """A member of the group at work until the block ends; its connection is its own."""
    async with (
        connect("sim:6086", dial=machine.network.dial_client, rng=Random(seed), wall_ms=machine.clock.wall_ms) as mq,
        mq.consumer(*(topics or ("t",)), group=group, **options) as consumer,
        anyio.create_task_group() as tasks,
    ):

        async def handle(record):
            work.seen.append((record.raw_value.decode(), record.attempt))
            work.records.append(record)
            await handler(record)

        async def go():
            await consumer.run(handle, **(run or {}))

        tasks.start_soon(go)
        yield consumer
        tasks.cancel_scope.cancel()


def failing(*values, until_attempt=10**9):
    """A handler that fails for these values, as long as they have been tried less often than that."""

    async def handler(record):
        if record.raw_value.decode() in values and record.attempt < until_attempt:
            raise ValueError(f"can't do {record.raw_value.decode()}")

    return handler


async def letters(mq, group="g", **options):
    return [letter async for letter in mq.admin.dead_letters(group, **options)]


async def lag(mq, group="g"):
    return {(one.topic, one.partition): one.records for one in await mq.admin.group_lag(group)}


async def settled(seconds=5.0):
    await trio.sleep(seconds)
