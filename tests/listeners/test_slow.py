"""Clients that take their time: nobody holds the node's memory by being slow."""

import pytest
import trio

from tests.sim.machine import Machine

PIECE_EVERY_S = 5


async def dribble(stream, seconds):
    begun = trio.current_time()
    while trio.current_time() - begun < seconds:
        await stream.send_all([b"."])
        await trio.sleep(PIECE_EVERY_S)


@pytest.mark.parametrize("first", [b"\x00\xf0\x00\x00\x00\x12\x00\x00", b"DDUOMQ\x00\x01"])
async def test_a_request_that_dribbles_in_is_given_up(autojump_clock, first):
    """A byte now and then keeps a connection from being idle, not from being too slow."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node() as node:
            stream = await machine.network.dial("sim", 6086)
            await stream.send_all([first])
            if first.startswith(b"DDUOMQ"):
                await stream.send_all([b"\x00\x00\xf0\x00\x00\x00\x00\x10"])
            begun = trio.current_time()
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await dribble(stream, 1_000)
            assert trio.current_time() - begun < 400
            assert node.services.buffers.in_use == 0
        nursery.cancel_scope.cancel()
