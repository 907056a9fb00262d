"""Workers of a queue in processes of their own: one is killed, the node is killed, and each record's work is done."""

import subprocess
import sys
import threading

import pytest
import trio

import dduomq
from dduomq import blocking
from dduomq.errors import UsageError
from tests.e2e.processes import Node, running
from tests.e2e.test_groups import TIMEOUT_S, until

COUNT = 300
SCRIPT = """
import anyio, sys, dduomq
from dduomq.errors import OutcomeUnknown

async def main(address):
    async with dduomq.connect(address) as mq:
        async with mq.queue("t", group="g", lock=2.0, session_timeout=4.0, prefetch=10, auto_ack=False) as queue:
            async for record in queue:
                await anyio.sleep(0.002)
                number = record.raw_value.decode()
                try:
                    await record.ack()
                except OutcomeUnknown:  # the node was away for about as long as the lock lasts
                    print(number, 0, flush=True)
                else:
                    print(number, record.delivery_count, flush=True)

anyio.run(main, sys.argv[1], backend=sys.argv[2])
"""


class Worker:
    """A process that works, and what it has acknowledged: number to deliveries; `unsure`: what it can't know of."""

    def __init__(self, address, backend):
        command = [sys.executable, "-c", SCRIPT, address, backend]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.acked = []
        self.unsure = set()
        self._reader = threading.Thread(target=self._read_along, daemon=True)
        self._reader.start()

    def _read_along(self):
        for line in self.process.stdout:
            number, count = map(int, line.split())
            if count:
                self.acked.append((number, count))
            else:
                self.unsure.add(number)

    def kill(self):
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self.process.stdout.close()
        self.process.stderr.close()


def send(address, count):
    async def work():
        async with dduomq.connect(address) as mq:
            await mq.admin.create_topic("t", partitions=1)
            for at in range(0, count, 20):
                await mq.send_batch("t", [str(number) for number in range(at, at + 20)])

    trio.run(work)


def numbers(*workers):
    return [number for worker in workers for number, _ in worker.acked]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_killed_worker_and_a_killed_node(tmp_path, backend):
    """What a worker had begun goes to the other one; no record that was acked comes again; none is left out."""
    node = Node(tmp_path / "data")
    workers = []
    try:
        send(node.address, COUNT)
        workers = [Worker(node.address, backend) for _ in range(2)]
        first, second = workers
        until(lambda: len(first.acked) > 10 and len(second.acked) > 10)
        first.kill()
        until(lambda: len(numbers(*workers)) > COUNT // 3)
        node.kill()
        node = Node(tmp_path / "data", port=node.port)
        until(lambda: len(set(numbers(*workers)) | second.unsure) >= COUNT - 2)  # an ack's answer may have been lost
        found = numbers(*workers)
        assert len(found) == len(set(found))
    finally:
        for worker in workers:
            worker.kill()
        node.stop()


def test_a_queue_for_scripts(tmp_path):
    """The blocking face: each word of a record, and that it is said once."""
    with running(tmp_path / "data") as node:
        send(node.address, 20)
        with blocking.connect(node.address) as mq:
            with mq.queue("t", group="g", auto_ack=False) as queue:
                records = queue.pull()
                while len(records) < 20:
                    records += queue.pull()
                zero, one, two, three, *others = records
                queue.ack(zero)
                queue.nack(one, delay=0.2, error="not now")
                queue.reject(two, "never")
                queue.extend(three, 60)
                queue.ack(three)
                with pytest.raises(UsageError):
                    queue.ack(zero)
                for record in others:
                    queue.ack(record)
                again = next(iter(queue))
                assert (again.value, again.delivery_count) == (b"1", 2)
                queue.ack(again)
                assert queue.pull(timeout=0.5) == []
            assert mq.admin.describe_queue("g").parts[0].start == 20
