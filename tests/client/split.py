"""A cluster for the client's tests: several fronts before one real node, each with partitions and groups of its own.

Each front speaks the native protocol's frames. What it does not lead it refuses, as a node of a cluster would, all else
goes to the real node behind it, which stands for logs that are replicated without a flaw: a batch that comes again by
another front is known there.
"""

import itertools
from contextlib import asynccontextmanager
from random import Random

import anyio
import trio

from dduomq.client.client import connect
from dduomq.testing.network import Pipe, SimStream, SimTransport
from dduomq.wire import frame, native
from dduomq.wire.native_groups import Credit, Push
from dduomq.wire.native_routes import CoordinatorFound, FindCoordinator
from tests.sim.machine import Machine

FIRST_PORT = 7_000
NOT_LEADER, NOT_COORDINATOR = 6, 16
DELAY_S = (0.0001, 0.003)


def port_of(node_id):
    return FIRST_PORT + node_id


class Cluster:
    """Who leads what; the fronts ask it."""

    def __init__(self, machine, rng, nodes):
        self.machine = machine
        self.rng = rng
        self.fronts = {node_id: Front(self, node_id) for node_id in nodes}
        self.leaders = {}  # (topic, partition): (node id, epoch)
        self.coordinators = {}  # group: node id
        self.unborn = set()  # topics that are only just being made
        self.produced = []  # (node id, topic, partition, bytes) of each part that a front has let in
        self.dialled = []
        self.hangs = set()  # nodes to which dialling takes for ever

    def leader(self, place):
        nodes = sorted(self.fronts)
        return self.leaders.setdefault(place, (nodes[place[1] % len(nodes)], 1))

    def coordinator(self, group):
        return self.coordinators.setdefault(group, min(self.fronts))

    async def move(self, place, node_id, *, tell=True):
        """Another leader. `tell`: the old one ends the streams that it has."""
        old, epoch = self.leader(place)
        self.leaders[place] = (node_id, epoch + 1)
        if tell:
            await self.fronts[old].end_streams(place)

    async def kill(self, node_id, *, elect=True):
        """A node is gone; what it had goes to others, when they have seen it."""
        self.fronts[node_id].die()
        if elect:
            await self.elect_without(node_id)

    async def elect_without(self, node_id):
        rest = [at for at in sorted(self.fronts) if self.fronts[at].is_alive and at != node_id]
        for place, (leader, _) in list(self.leaders.items()):
            if leader == node_id:
                await self.move(place, rest[place[1] % len(rest)], tell=False)
        for group, keeper in list(self.coordinators.items()):
            if keeper == node_id:
                self.coordinators[group] = rest[0]

    async def dial(self, _host, port):
        await trio.sleep(self.rng.uniform(*DELAY_S))
        front = self.fronts.get(port - FIRST_PORT)
        self.dialled.append(port - FIRST_PORT)
        if port - FIRST_PORT in self.hangs:
            await trio.sleep_forever()
        if front is None or not front.is_alive:
            raise ConnectionRefusedError(f"nobody listens at {port}")
        return SimTransport(await front.accept())

    @asynccontextmanager
    async def connect(self, *nodes, seed=7, **options):
        """A client, told of these nodes, or of all."""
        address = ",".join(f"sim:{port_of(node_id)}" for node_id in nodes or sorted(self.fronts))
        async with connect(
            address, dial=self.dial, rng=Random(seed), wall_ms=self.machine.clock.wall_ms, **options
        ) as mq:
            yield mq


class Front:
    """One node, as a client sees it. `is_frozen`: it takes everything and says nothing. `mute`: Api numbers whose
    answers are held back; `refuse`: Api numbers it answers with this code; `forgets`: what comes is not carried out.
    """

    def __init__(self, cluster, node_id):
        self.cluster = cluster
        self.node_id = node_id
        self.is_alive = True
        self.is_frozen = False
        self.mute = set()
        self.refuse = {}
        self.links = []
        self.asked = []  # the name of each request that came
        self._thawed = trio.Event()

    async def accept(self):
        network, rng = self.cluster.machine.network, self.cluster.rng
        there, back = Pipe(rng), Pipe(rng)
        link = Link(self, SimStream(there, back, "client"), await network.dial("sim", 6086))
        self.links.append(link)
        self.cluster.machine.nursery.start_soon(link.run)
        return SimStream(back, there, "front")

    def die(self):
        """Connections break, with all that is under way; what has reached the log stays there."""
        self.is_alive = False
        for link in self.links:
            link.break_off()
        self.links.clear()

    def revive(self):
        self.is_alive = True

    def freeze(self):
        self.is_frozen = True
        self._thawed = trio.Event()

    def thaw(self):
        self.is_frozen = False
        self._thawed.set()

    async def awake(self):
        while self.is_frozen:
            await self._thawed.wait()

    async def unmute(self):
        self.mute.clear()
        for link in self.links:
            await link.say_held()

    async def end_streams(self, place):
        for link in self.links:
            await link.end_streams(place)


class Link:
    """One client's connection to a front, and the front's own to the real node."""

    def __init__(self, front, client, node):
        self._front = front
        self._client = client
        self._node = node
        self._merges = {}  # correlation: what becomes of the answer
        self._apis = {}
        self._streams = {}  # correlation: (topic, partition)
        self._held = []

    def break_off(self):
        self._client.break_off()
        self._node.break_off()

    @property
    def is_over(self):
        return self._client.is_over

    async def run(self):
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._from_client)
                nursery.start_soon(self._from_node)
        except* (trio.BrokenResourceError, EOFError):
            self.break_off()

    async def _from_client(self):
        reader = Frames(self._client)
        assert await reader.exactly(len(frame.MAGIC)) == frame.MAGIC
        await self._node.send_all([frame.MAGIC])
        while True:
            header, payload = await reader.next()
            await self._front.awake()
            correlation, timeout_ms, body = native.read_request(header)
            self._front.asked.append(type(body).__name__)
            self._apis[correlation] = type(body).__name__
            for request, part in self._admit(correlation, body, payload):
                await self._node.send_all(
                    [frame.write(native.request_header(correlation, timeout_ms, request), len(part)), part]
                )

    async def _from_node(self):
        reader = Frames(self._node)
        while True:
            header, payload = await reader.next()
            await self._front.awake()
            correlation, code, message, body = header
            if correlation in self._merges and not code:
                body = self._merges.pop(correlation)(body)
            if correlation in self._streams or self._apis.get(correlation) != "Push":
                await self._say([correlation, code, message, body], payload)

    async def _say(self, header, payload=b""):
        if self._apis.get(header[0]) in self._front.mute:
            self._held.append((header, bytes(payload)))
            return
        await self._client.send_all([frame.write(header, len(payload)), payload])

    async def say_held(self):
        held, self._held = self._held, []
        for header, payload in held:
            await self._say(header, payload)

    def _answer(self, correlation, body):
        self._later(native.answer_header(correlation, body))

    def _refuse(self, correlation, code):
        self._later(native.error_header(correlation, code, "not here"))

    def _later(self, header):
        self._front.cluster.machine.nursery.start_soon(self._say_if_there, header)

    async def _say_if_there(self, header):
        try:
            await self._say(header)
        except trio.BrokenResourceError:
            return

    # --- what a node of a cluster does ----------------------------------------------------------------

    def _leads(self, part):
        return self._front.cluster.leader((part.topic, part.partition))[0] == self._front.node_id

    def _admit(self, correlation, body, payload):
        """Requests for the real node, with their payloads; what is refused is answered."""
        front = self._front
        if type(body).__name__ in front.refuse:
            self._refuse(correlation, front.refuse[type(body).__name__])
            return []
        match body:
            case native.Hello():
                self._merges[correlation] = self._as_me
            case native.Metadata():
                self._merges[correlation] = self._as_cluster
            case FindCoordinator():
                keeper = front.cluster.coordinator(body.key)
                self._answer(correlation, CoordinatorFound(keeper, "sim", port_of(keeper)))
                return []
            case Push():
                if not self._leads(body):
                    self._refuse(correlation, NOT_LEADER)
                    return []
                self._streams[correlation] = (body.topic, body.partition)
            case native.Produce():
                return self._admit_produce(correlation, body, payload)
            case native.Fetch() | native.ListOffsets() | native.DeleteRecords():
                return self._admit_parts(correlation, body)
            case _ if hasattr(body, "group") and type(body).__name__ not in {"MoveLetters", "ListLetters"}:
                if front.cluster.coordinator(body.group) != front.node_id:
                    self._refuse(correlation, NOT_COORDINATOR)
                    return []
        return [(body, payload)]

    def _admit_produce(self, correlation, body, payload):
        at, parts, data, mine = 0, [], [], []
        for part in body.parts:
            if self._leads(part):
                mine.append(True)
                parts.append(part)
                data.append(bytes(payload[at : at + part.size]))
                place = (part.topic, part.partition)
                self._front.cluster.produced.append((self._front.node_id, *place, data[-1]))
            else:
                mine.append(False)
            at += part.size
        refused = native.ProducedPart(NOT_LEADER, "not here", -1, -1, -1, "")
        return self._pass_on(correlation, native.Produce(body.acks, tuple(parts)), b"".join(data), mine, refused)

    def _admit_parts(self, correlation, body):
        field = "queries" if isinstance(body, native.ListOffsets) else "parts"
        parts = getattr(body, field)
        mine = [self._leads(part) for part in parts]
        refused = {
            native.Fetch: native.FetchedPart(NOT_LEADER, "not here", -1, -1, -1, 0),
            native.ListOffsets: native.OffsetFound(NOT_LEADER, "not here", -1, -1, -1),
            native.DeleteRecords: native.PurgedPart(NOT_LEADER, "not here", -1),
        }[type(body)]
        kept = tuple(part for part, is_mine in zip(parts, mine, strict=True) if is_mine)
        rest = native.attrs.evolve(body, **{field: kept})
        if isinstance(body, native.Fetch) and not all(mine):
            rest = native.attrs.evolve(rest, max_wait_ms=0)
        return self._pass_on(correlation, rest, b"", mine, refused)

    def _pass_on(self, correlation, body, payload, mine, refused):
        refused = native.to_plain(refused)
        if not any(mine):
            self._later([correlation, 0, None, [[refused for _ in mine]]])
            return []
        if not all(mine):

            def merge(plain):
                found = iter(plain[0])
                return [[next(found) if is_mine else refused for is_mine in mine]]

            self._merges[correlation] = merge
        return [(body, payload)]

    def _as_me(self, plain):
        hello = native.from_plain(native.HelloAnswer, plain)
        return native.to_plain(native.attrs.evolve(hello, node_id=self._front.node_id))

    def _as_cluster(self, plain):
        cluster = self._front.cluster
        answer = native.from_plain(native.MetadataAnswer, plain)
        nodes = tuple(
            native.NodeAddress(node_id, "sim", port_of(node_id))
            for node_id, front in cluster.fronts.items()
            if front.is_alive
        )
        topics = []
        for topic in answer.topics:
            parts = tuple(
                native.PartitionMetadata(0, part.partition, *cluster.leader((topic.name, part.partition)))
                for part in topic.partitions
            )
            topics.append(native.attrs.evolve(topic, partitions=() if topic.name in cluster.unborn else parts))
        return native.to_plain(native.attrs.evolve(answer, nodes=nodes, topics=tuple(topics)))

    async def end_streams(self, place):
        for correlation in [at for at, held in self._streams.items() if held == place]:
            del self._streams[correlation]
            await self._say_if_there(native.error_header(correlation, NOT_LEADER, "not here any more"))
            await self._node.send_all([frame.write(native.request_header(0, 0, Credit(correlation, -1)))])


class Frames:
    """Cuts frames out of a stream."""

    def __init__(self, stream):
        self._stream = stream
        self._data = bytearray()

    async def exactly(self, size):
        view = memoryview(bytearray(65_536))
        while len(self._data) < size:
            count = await self._stream.receive_into(view)
            if not count:
                raise EOFError
            self._data += view[:count]
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    async def next(self):
        sizes = frame.read_prefix(memoryview(await self.exactly(frame.PREFIX_BYTES)), 2**26)
        header = frame.read_header(await self.exactly(sizes[0]))
        return header, await self.exactly(sizes[1])


@asynccontextmanager
async def split(partitions=3, *, nodes=(1, 2, 3), seed=11):
    """A cluster whose topic `t` is spread over all nodes."""
    async with trio.open_nursery() as nursery:
        machine = Machine(nursery)
        async with machine.node():
            cluster = Cluster(machine, Random(seed), nodes)
            async with machine.client() as mq:
                await mq.admin.create_topic("t", partitions=partitions)
            yield cluster
        nursery.cancel_scope.cancel()


async def until(happened):
    """Wait for something that is to happen soon."""
    for _ in itertools.repeat(None, 5_000):
        if happened():
            return
        await anyio.sleep(0.05)
    raise AssertionError("it did not happen")
