"""Members in processes of their own: one is killed, the node is killed, and each record's work is done."""

import subprocess
import sys
import threading
import time

import pytest
import trio

import dduomq
from tests.e2e.processes import Node

TIMEOUT_S = 60
COUNT = 400
SCRIPT = """
import anyio, sys, dduomq

async def main(address, backend):
    async with dduomq.connect(address) as mq:
        async with mq.consumer("t", group="g", session_timeout=2.0, commit_interval=0.1) as consumer:
            async for record in consumer:
                print(record.raw_value.decode(), flush=True)
                await anyio.sleep(0.001)

anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[2])
"""


class Member:
    """A process that works, and what it has done."""

    def __init__(self, address, backend):
        command = [sys.executable, "-c", SCRIPT, address, backend]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.done = []
        self._reader = threading.Thread(target=self._read_along, daemon=True)
        self._reader.start()

    def _read_along(self):
        for line in self.process.stdout:
            self.done.append(int(line))

    def kill(self):
        self.process.kill()
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self.process.stdout.close()
        self.process.stderr.close()


def send(address, first, last):
    async def work():
        async with dduomq.connect(address) as mq:
            if not first:
                await mq.admin.create_topic("t", partitions=4)
            for number in range(first, last):
                await mq.send_async("t", str(number), partition=number % 4)

    trio.run(work)


def committed(address):
    async def work():
        async with dduomq.connect(address) as mq:
            return sum((await mq.admin.group_offsets("g")).values())

    return trio.run(work)


def until(happened):
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_killed_members_part_goes_to_the_other(tmp_path, backend):
    """What it had done and not committed may be done again; nothing is left out."""
    node = Node(tmp_path / "data")
    members = [Member(node.address, backend) for _ in range(2)]
    try:
        send(node.address, 0, COUNT)
        until(lambda: all(len(member.done) > COUNT // 20 for member in members))
        members[0].kill()
        send(node.address, COUNT, 2 * COUNT)
        until(lambda: {*members[0].done, *members[1].done} == set(range(2 * COUNT)))
        until(lambda: committed(node.address) == 2 * COUNT)
    finally:
        for member in members:
            if member.process.poll() is None:
                member.kill()
        node.kill()


def test_members_outlive_a_killed_node(tmp_path):
    """They go on with what they have; what was committed is there."""
    node = Node(tmp_path / "data")
    members = [Member(node.address, backend) for backend in ("trio", "asyncio")]
    try:
        send(node.address, 0, COUNT)
        until(lambda: all(len(member.done) > COUNT // 20 for member in members))
        port = node.port
        node.kill()
        node = Node(tmp_path / "data", port=port)
        send(node.address, COUNT, 2 * COUNT)
        until(lambda: {*members[0].done, *members[1].done} == set(range(2 * COUNT)))
        until(lambda: committed(node.address) == 2 * COUNT)
        assert [member.process.poll() for member in members] == [None, None]
    finally:
        for member in members:
            if member.process.poll() is None:
                member.kill()
        node.kill()


APP = """
import sys, dduomq

app = dduomq.App(sys.argv[1])

@app.consumer("t", group="g", concurrency=4, ordered="key")
async def work(record):
    print(record.raw_value.decode(), flush=True)

app.main(backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_app_stops_in_good_order(tmp_path, backend):
    """SIGTERM: what is done is committed, the group is left at once, and it ends without a word."""
    node = Node(tmp_path / "data")
    command = [sys.executable, "-c", APP, node.address, backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        send(node.address, 0, 100)
        done = {int(process.stdout.readline()) for _ in range(100)}
        assert done == set(range(100))
        process.terminate()
        _, errors = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, errors) == (0, "")
        assert committed(node.address) == 100

        async def members():
            async with dduomq.connect(node.address) as mq:
                return (await mq.admin.describe_group("g")).members

        assert trio.run(members) == ()
    finally:
        process.kill()
        process.communicate()
        node.kill()
