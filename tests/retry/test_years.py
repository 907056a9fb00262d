"""Years of virtual time: a machine that is on now and then, records that step aside for months; each comes once."""

from random import Random

import pytest
import trio

from dduomq.wire import origin
from tests.retry.helpers import Work, letters, one_machine, read, working
from tests.retry.test_faults import Lives

DAY_S = 24 * 3_600
LADDER = [30 * DAY_S, 90 * DAY_S, 200 * DAY_S]
RECORDS = 12


def tries_needed(value):
    return int(value) % 5 + 1  # the fifth never comes


async def handler(record):
    if record.attempt < tries_needed(record.raw_value):
        raise ValueError(f"not in try {record.attempt}")


@pytest.mark.parametrize("seed", range(4))
async def test_a_machine_that_is_on_for_a_minute_a_month(autojump_clock, seed):
    rng = Random(seed)
    async with one_machine() as machine:
        lives, work, begun = Lives(machine), Work(), trio.current_time()
        await lives.begin()
        async with machine.client() as mq:
            await mq.admin.create_topic("t", partitions=2, config={"retention.ms": "-1"})
            for n in range(RECORDS):
                await mq.send("t", str(n), partition=n % 2)
        while trio.current_time() - begun < 3 * 365 * DAY_S:
            async with working(machine, work, handler, retry=LADDER, seed=rng.getrandbits(32)):
                await trio.sleep(rng.uniform(0.5, 60))
                await lives.end(rng.choice(["kill", "power loss", "stop"]))
            await trio.sleep(rng.uniform(1, 45) * DAY_S)
            await lives.begin()
        async with machine.client() as mq, working(machine, work, handler, retry=LADDER, seed=1):
            await trio.sleep(60)
            for n in range(RECORDS):
                tries = work.tries_of(str(n))
                assert set(tries) == set(range(1, min(tries_needed(n), len(LADDER) + 1) + 1)), (n, tries)
            rest = [int(letter.value) for letter in await letters(mq)]
            assert sorted(rest) == [n for n in range(RECORDS) if tries_needed(n) > len(LADDER) + 1]
            copies = [
                (record.header(origin.ORIGIN_PARTITION_HEADER), record.header(origin.ORIGIN_OFFSET_HEADER),
                 record.header(origin.ATTEMPT_HEADER))
                for record in await read(mq, "retry.g")
            ]  # fmt: skip
            assert len(copies) == len(set(copies))
        await lives.end()
