"""Clients that vanish at the worst moment: they cost themselves, never the node."""

import trio

from tests.sim.machine import Machine

VALUE = "x" * 50_000


async def fill(machine, count=60):
    async with machine.client() as mq:
        await mq.admin.create_topic("t", partitions=1)
        await mq.send_batch("t", [VALUE] * 10)
        for _ in range(count // 10 - 1):
            await mq.send_batch("t", [VALUE] * 10)


async def test_a_reader_of_lines_that_stops_reading_and_vanishes(autojump_clock):
    """Its writer and its watcher break at once."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            await fill(machine)
            streams = [await machine.network.dial("sim", 6086) for _ in range(20)]
            for number, stream in enumerate(streams):
                await stream.send_all([b"CONSUME:t g%d\n" % number])
            await trio.sleep(2)
            for stream in streams:
                stream.break_off()
            await trio.sleep(2)
            async with machine.client() as mq:
                assert len(await mq.pull("t", offset="earliest")) > 0
            await trio.sleep(1)
            assert node.server.connections == 0
        nursery.cancel_scope.cancel()


async def test_a_bug_in_one_session_ends_only_its_connection(autojump_clock, monkeypatch):
    """Whatever a session raises, the others go on."""

    async def fail(*_arguments):
        raise RuntimeError("a bug in a session")

    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            await fill(machine, 10)
            monkeypatch.setattr("dduomq.listeners.line.LineSession.run", fail)
            stream = await machine.network.dial("sim", 6086)
            await stream.send_all([b"CONSUME:t g\n"])
            assert await stream.receive_into(memoryview(bytearray(10))) == 0
            async with machine.client() as mq:
                assert len(await mq.pull("t", offset="earliest")) > 0
        nursery.cancel_scope.cancel()
