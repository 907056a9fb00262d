"""Requests with faults, by chance, against a whole node on a virtual clock; the same seed, the same requests.

What must hold whatever comes: an answer or the end of the connection within the request's time; one log line at most
for it, and none that tells of a bug; the byte budget is whole again at the end; records that were acknowledged are
there.
"""

from collections import Counter
from random import Random

import structlog
import trio

from dduomq.wire.kafka.primitives import Writer
from dduomq.wire.kafka.registry import APIS
from tests.sim.machine import Machine
from tests.wire.kafka.samples import message

REQUESTS = 40
PATIENCE_S = 130.0  # the longest that any request may take, but for those that wait for other members
WAIT_FOR_OTHERS = {"JoinGroup", "SyncGroup"}
KEPT = [f"kept {number}".encode() for number in range(50)]
BUGS = {"request_failed", "connection_failed", "actor_crashed"}
ABSURD = (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff\x0f")


class Finding(AssertionError):
    """Something that must hold does not; with the request that showed it."""


class Events:
    """A log that is kept."""

    def __init__(self):
        self.seen = []

    def logger(self):
        return structlog.wrap_logger(structlog.ReturnLogger(), processors=[self._keep])

    def _keep(self, _logger, level, event):
        self.seen.append({**event, "level": level})
        raise structlog.DropEvent


def a_request(rng):
    """(name of its API, a frame's bytes): well-formed, or nearly so."""
    api = rng.choice(list(APIS.values()))
    version = rng.randint(api.first, api.last)
    out = Writer()
    out.int16(api.key)
    out.int16(version if rng.random() < 0.97 else rng.randint(-1, 99))
    out.int32(rng.getrandbits(31))
    out.int16(4)
    out.out += b"fuzz"
    if api.is_flexible(version):
        out.uvarint(0)
    api.request.write(out, message(api.request.fields, version, rng), version)
    data = bytearray(b"".join(bytes(chunk) for chunk in out.chunks()))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        mutate(data, rng)
    length = len(data) if rng.random() < 0.9 else rng.choice((0, 3, len(data) + 7, 2**24, 2**31 - 1, 2**32 - 1))
    asked = APIS.get(int.from_bytes(data[:2], "big"))
    return "nothing" if asked is None else asked.name, length.to_bytes(4, "big") + bytes(data)


def mutate(data, rng):
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 3:
        absurd = rng.choice(ABSURD)
        data[at : at + len(absurd)] = absurd
    else:
        del data[at : at + rng.randrange(1, 9)]


async def _try(machine, data, patience_s):
    """Send, and wait for an answer or the end."""
    stream = await machine.network.dial("sim", 6086)
    try:
        await stream.send_all([data])
        with trio.move_on_after(patience_s) as scope:
            await stream.receive_into(memoryview(bytearray(65_536)))
        return not scope.cancelled_caught
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return True
    finally:
        await stream.aclose()


async def fuzz(seed):
    """One run; how many requests were sent. Raises `Finding`."""
    rng, events = Random(seed), Events()
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node(events.logger()) as node:
            async with machine.client() as mq:
                await mq.admin.create_topic("kept", partitions=1)
                await mq.send_batch("kept", KEPT)
                await mq.admin.create_topic("orders", partitions=2)
            for _ in range(REQUESTS):
                name, data = a_request(rng)
                is_whole = int.from_bytes(data[:4], "big") <= len(data) - 4
                begun = len(events.seen)
                ended = await _try(machine, data, 5.0 if name in WAIT_FOR_OTHERS or not is_whole else PATIENCE_S)
                _check(seed, name, data, events.seen[begun:])
                if not ended and is_whole and name not in {*WAIT_FOR_OTHERS, "Produce"}:  # acks=0 gets no answer
                    raise Finding(f"seed {seed}: {name} was not answered: {data.hex()}")
            await _check_node(machine, node, seed)
        nursery.cancel_scope.cancel()
    return REQUESTS


def _check(seed, name, data, events):
    bugs = [event for event in events if event["event"] in BUGS]
    if bugs:
        raise Finding(f"seed {seed}: {name}: {bugs[0]} from {data.hex()}")
    closings = Counter(event["peer"] for event in events if event["event"] == "connection_closed")
    if any(count > 1 for count in closings.values()):
        raise Finding(f"seed {seed}: {name}: {closings} log lines for one connection from {data.hex()}")


async def _check_node(machine, node, seed):
    await trio.sleep(60)
    async with machine.client() as mq:
        found = [record.value for record in await mq.pull("kept", offset="earliest")]
    if found != KEPT:
        raise Finding(f"seed {seed}: {len(KEPT)} records were kept, {len(found)} are there")
    await trio.sleep(1)
    if node.services.buffers.in_use:
        raise Finding(f"seed {seed}: {node.services.buffers.in_use} bytes of the budget were not given back")
