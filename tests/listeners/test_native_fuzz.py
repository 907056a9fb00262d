"""Native requests with faults, by chance, against a whole node on a virtual clock: each costs its sender only."""

from contextlib import suppress
from random import Random
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import attrs
import cbor2
import pytest
import trio

from dduomq.wire import frame, native
from tests.listeners.fuzzing import BUGS, Events
from tests.sim.machine import Machine

REQUESTS = 60
PATIENCE_S = 130.0
TEXTS = ("t", "g", "m", "", "nope", "__groups", "x" * 5_000, "a > ", "price > 5", "(" * 300, "\x00", "ü" * 200)
NUMBERS = (0, 1, -1, -2, 3, 10, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1)
JUNK = (None, "text", -5, 2**64 - 1, [], {}, b"bytes", 1.5, True, [[[]]], {"a": 1})


def value_of(hint, rng, depth=0):
    """Something of the right type, or nearly."""
    if rng.random() < 0.02:
        return rng.choice(JUNK)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return [value_of(arguments[0], rng, depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
        return [value_of(item, rng, depth + 1) for item in arguments]
    if NoneType in arguments:
        inner = next(item for item in arguments if item is not NoneType)
        return None if rng.random() < 0.4 else value_of(inner, rng, depth + 1)
    if attrs.has(hint):
        hints = get_type_hints(hint)
        return [value_of(hints[field.name], rng, depth + 1) for field in attrs.fields(hint)]
    if hint is int:
        return rng.choice(NUMBERS)
    if hint is bool:
        return rng.random() < 0.5
    if hint is str:
        return rng.choice(TEXTS)
    return {rng.choice(TEXTS): rng.choice(TEXTS) for _ in range(rng.randrange(3))}


def a_request(rng, correlation):
    """A frame's bytes."""
    api, (request, _) = rng.choice(list(native.REQUESTS.items()))
    timeout_ms = rng.choice((0, 100, 5_000, -1, 2**31))
    plain = [int(api), 1, correlation, timeout_ms, value_of(request, rng)]
    if rng.random() < 0.05:
        plain[rng.randrange(5)] = rng.choice(JUNK)
    payload = rng.randbytes(rng.choice((0, 0, 10, 200)))
    data = bytearray(frame.write(plain, len(payload)) + payload)
    if rng.random() < 0.1:
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


async def converse(machine, rng):
    """One connection: hello, then requests until it is closed or all are sent."""
    stream = await machine.network.dial("sim", 6086)
    hello = frame.write(native.request_header(0, 1_000, native.Hello(1, "fuzz")))
    await stream.send_all([frame.MAGIC + hello])
    sent = 0
    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:

            async def read():
                buffer = bytearray(65_536)
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_into(memoryview(buffer)):
                        pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            with suppress(trio.BrokenResourceError):
                for number in range(rng.randrange(1, 12)):
                    await stream.send_all([a_request(rng, number + 1)])
                    sent += 1
                    await trio.sleep(rng.choice((0.0, 0.01, 1.0)))
                await trio.sleep(rng.choice((0.0, 5.0)))
            nursery.cancel_scope.cancel()
    await stream.aclose()
    return sent


@pytest.mark.parametrize("seed", range(20))
async def test_faulty_requests_cost_their_sender_only(autojump_clock, seed):
    """No bug is logged, no actor crashes, and who asks in good order is served all the time."""
    rng, events = Random(seed), Events()
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(events.logger()) as node, machine.client() as mq:
            await mq.admin.create_topic("t", partitions=2)
            for number in range(20):
                await mq.send("t", str(number), partition=0)
            sent = 0
            while sent < REQUESTS:
                sent += await converse(machine, rng) or 1
            found = [event for event in events.seen if event["event"] in BUGS]
            assert not found, found
            assert not sum(status.restarts for status in node.actors())
            if "t" in {topic.name for topic in await mq.admin.list_topics()}:
                await mq.send("t", "after", partition=0)
            await mq.admin.list_groups()
        nursery.cancel_scope.cancel()


def test_the_values_are_what_the_wire_has():
    """Else nothing would be tested: most of them are read."""
    rng, read = Random(1), 0
    for _ in range(300):
        _, (request, _) = rng.choice(list(native.REQUESTS.items()))
        plain = cbor2.loads(cbor2.dumps(value_of(request, rng)))
        try:
            native.from_plain(request, plain)
            read += 1
        except native.WireError:
            continue
    assert read > 150
