"""Dead records of a queue rest with the group's dead letters, and come back to the queue from there."""

import trio

from tests.client.test_consuming import until
from tests.retry.helpers import letters, running


async def test_a_dead_record_is_a_dead_letter_and_comes_back_to_its_queue(autojump_clock):
    async with running() as (_, _, mq):
        await mq.admin.create_topic("t", partitions=1)
        for n in range(4):
            await mq.send("t", str(n), headers={"own": "1"})
        tries, is_well = [], False

        async def handle(record):
            tries.append((record.raw_value.decode(), record.delivery_count))
            assert (record.topic, record.partition, record.headers) == ("t", 0, [("own", b"1")])
            if record.raw_value == b"1" and not is_well:
                raise ValueError("no")
            if record.raw_value == b"2" and not is_well:
                await record.reject("no such customer")

        async with mq.queue("t", group="g", deliveries=3, start="latest"):
            pass
        async with mq.queue("t", group="h", deliveries=3) as queue, trio.open_nursery() as nursery:
            nursery.start_soon(queue.run, handle)
            await until(lambda: len(tries) == 6)
            await trio.sleep(5)
            assert sorted(tries) == [("0", 1), ("1", 1), ("1", 2), ("1", 3), ("2", 1), ("3", 1)]
            dead = await letters(mq, "h")
            assert sorted((one.value, one.attempts) for one in dead) == [(b"1", 3), (b"2", 1)]
            assert {one.reason for one in dead} >= {"no such customer"}
            is_well = True
            tries.clear()
            assert await mq.admin.redrive("h") == 2
            await until(lambda: len(tries) == 2)
            await trio.sleep(60)
            assert sorted(tries) == [("1", 1), ("2", 1)]
            assert await letters(mq, "h") == []
            nursery.cancel_scope.cancel()
