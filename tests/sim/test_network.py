"""The simulated network: bytes arrive whole and in order, or the connection breaks."""

from random import Random

import pytest
import trio

from dduomq.errors import ListenError
from dduomq.testing.network import PIPE_BYTES, SimNetwork


async def connected(seed=1):
    """(network, client's transport, node's stream)."""
    network = SimNetwork(Random(seed))
    listener = await network.listen("sim", 6086)
    transport = await network.dial_client("sim", 6086)
    return network, transport, await listener.accept()


async def receive(stream, size):
    data = bytearray()
    while len(data) < size:
        buffer = bytearray(size)
        count = await stream.receive_into(memoryview(buffer))
        assert count, "the stream has ended"
        data += buffer[:count]
    return bytes(data)


async def test_bytes_arrive_in_order_in_pieces(autojump_clock):
    """However much it is, and both ways."""
    _, transport, stream = await connected()
    data = bytes(range(256)) * 2_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.send, data)
        assert await receive(stream, len(data)) == data
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, [data[:1_000], data[1_000:]])
        back = b""
        while len(back) < len(data):
            back += await transport.receive(1 << 20)
    assert back == data


async def test_who_does_not_read_holds_up_who_sends(autojump_clock):
    """A pipe takes so much and no more."""
    _, _, stream = await connected()
    assert stream.send_nowait(bytes(2 * PIPE_BYTES)) == PIPE_BYTES
    assert stream.send_nowait(b"x") == 0
    with trio.move_on_after(10) as scope:
        await stream.send_all([b"x"])
    assert scope.cancelled_caught


async def test_a_closed_connection_ends(autojump_clock):
    """What was sent before is read, then comes the end; who sends into it, or waits to, is told."""
    _, transport, stream = await connected()
    await transport.send(b"last words")
    stream.send_nowait(bytes(PIPE_BYTES))
    async with trio.open_nursery() as nursery:

        async def wait_to_send():
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all([b"x"])

        nursery.start_soon(wait_to_send)
        await trio.testing.wait_all_tasks_blocked()
        await transport.aclose()
    assert await receive(stream, 10) == b"last words"
    assert await stream.receive_into(memoryview(bytearray(1))) == 0


async def test_a_crash_breaks_everything(autojump_clock):
    """Both sides are told, what was under way is gone, and nobody listens any more."""
    network, transport, stream = await connected()
    await transport.send(b"lost")
    network.crash()
    with pytest.raises(ConnectionResetError):
        await transport.send(b"x")
    with pytest.raises(ConnectionResetError):
        await transport.receive(10)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_into(memoryview(bytearray(10)))
    with pytest.raises(ConnectionRefusedError):
        await network.dial("sim", 6086)


async def test_one_connection_breaks_alone(autojump_clock):
    """The node and the other clients go on."""
    network, first, _ = await connected()
    second = await network.dial_client("sim", 6086)
    network.break_one()
    broken = 0
    for transport in (first, second):
        try:
            await transport.send(b"x")
        except ConnectionResetError:
            broken += 1
    assert broken == 1
    network.break_one()
    network.break_one()


async def test_an_address_is_listened_on_once(autojump_clock):
    """Until it is closed."""
    network = SimNetwork(Random(1))
    listener = await network.listen("sim", 6086)
    with pytest.raises(ListenError):
        await network.listen("sim", 6086)
    await listener.aclose()
    await network.listen("sim", 6086)
    assert (await network.listen("sim", 0)).port != (await network.listen("sim", 0)).port


async def machines(seed=1):
    """(network, stream of node-1, stream of node-2)."""
    network = SimNetwork(Random(seed))
    listener = await network.at("node-2").listen("node-2", 6086)
    ours = await network.at("node-1").dial("node-2", 6086)
    return network, ours, await listener.accept()


async def test_a_way_that_is_cut_holds_back_what_is_sent(autojump_clock):
    """One direction or both; afterwards it arrives, in order, and nobody else has noticed."""
    network, ours, theirs = await machines()
    network.cut("node-1", "node-2", both=False)
    ours.send_nowait(b"held")
    theirs.send_nowait(b"back")
    assert await receive(ours, 4) == b"back"
    with trio.move_on_after(100) as scope:
        await receive(theirs, 4)
    assert scope.cancelled_caught
    network.mend("node-2", "node-1")
    assert await receive(theirs, 4) == b"held"
    network.isolate("node-2", ["node-1", "node-3"])
    with trio.move_on_after(100) as scope:
        await network.at("node-3").dial("node-2", 6086)
    assert scope.cancelled_caught
    network.mend_all()
    await network.at("node-3").dial("node-2", 6086)


async def test_machines_have_ports_of_their_own(autojump_clock):
    """A port of one is not that of another; one that dies takes its own connections and listeners with it."""
    network, ours, _ = await machines()
    await network.at("node-3").listen("node-3", 6086)
    with pytest.raises(ListenError):
        await network.at("node-3").listen("node-3", 6086)
    with pytest.raises(ConnectionRefusedError):
        await network.at("node-1").dial("node-4", 6086)
    other = await network.at("node-1").dial("node-3", 6086)
    network.at("node-2").crash()
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive_into(memoryview(bytearray(10)))
    assert not other.is_over
    with pytest.raises(ConnectionRefusedError):
        await network.dial("node-2", 6086)


async def test_nobody_hears_of_a_death_over_a_way_that_is_cut(autojump_clock):
    """Not before it is mended."""
    network, ours, _ = await machines()
    network.cut("node-1", "node-2")
    network.crash_machine("node-2")
    ours.send_nowait(b"are you there?")
    with trio.move_on_after(100) as scope:
        await ours.receive_into(memoryview(bytearray(10)))
    assert scope.cancelled_caught
    network.mend_all()
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive_into(memoryview(bytearray(10)))
