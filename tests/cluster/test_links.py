"""Links between nodes: who is let in, what travels, and what happens when the way is bad."""

from contextlib import asynccontextmanager
from random import Random

import pytest
import structlog
import trio

from dduomq.actors import link_frames
from dduomq.actors.link import Link
from dduomq.cluster.handshake import PeerBook
from dduomq.cluster.ports import MetadataConflict, PeerUnavailable
from dduomq.errors import WireError
from dduomq.limits import FRAME_BYTES_MAX, MIB
from dduomq.testing.network import SimNetwork
from dduomq.testing.peers import PeerHost
from dduomq.wire import frame
from dduomq.wire.peer_hello import AskFacts, PeerFacts
from dduomq.wire.peer_metadata import Beat, BeatAnswer, Command, CommandDone, RaftMessages

PORT = 6086
SECRET = "all for one"


def book(node, *, directory=None, secret=SECRET, cluster="", rng=None):
    return PeerBook(
        node_id=node, directory_id=directory or f"dir-{node}", secret=secret, rng=rng or Random(node),
        host=f"node-{node}", port=PORT, wanted=(1, 2, 3), cluster_id=cluster,
    )  # fmt: skip


class Pair:
    """Nodes that only have links, in one network."""

    def __init__(self, nursery, seed=1):
        self.nursery = nursery
        self.network = SimNetwork(Random(seed))
        self.events = []
        self.lives = {}
        self.log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[self._keep])
        self.addresses = {node: (f"node-{node}", PORT) for node in (1, 2, 3)}
        self.rng = Random(seed)

    def _keep(self, _logger, name, event):
        self.events.append(event)
        raise structlog.DropEvent

    async def host(self, its_book, *, machine=None, addresses=None):
        network = self.network.at(machine or f"node-{its_book.node_id}")
        host = PeerHost(its_book, network, addresses or self.addresses, Random(self.rng.random()), self.log)
        self.lives[host] = await self.nursery.start(self._live, host)
        return host

    @staticmethod
    async def _live(host, task_status):
        async with trio.open_nursery() as nursery:
            await host.listen(nursery)
            host.links.start(nursery.start_soon)
            task_status.started(nursery.cancel_scope)

    def kill(self, host):
        self.network.crash_machine(f"node-{host.book.node_id}")
        self.lives[host].cancel()

    def reasons(self):
        return " | ".join(str(event.get("reason", "")) for event in self.events)


@asynccontextmanager
async def pair(seed=1):
    async with trio.open_nursery() as nursery:
        yield Pair(nursery, seed)
        nursery.cancel_scope.cancel()


async def until(holds):
    with trio.fail_after(60):
        while not holds():  # noqa: ASYNC110  # any condition, in virtual time
            await trio.sleep(0.01)


async def up(link: Link):
    await until(lambda: link.is_up)


async def down(link: Link):
    await until(lambda: not link.is_up)


@pytest.mark.parametrize("seed", range(3))
async def test_questions_and_answers_of_any_size(autojump_clock, seed):
    """Answers come as they are ready, each to who asked; payloads arrive as they were sent, both ways."""
    async with pair(seed) as world:
        one, two = await world.host(book(1)), await world.host(book(2))

        async def echo(context, body, payload):
            assert (context.node_id, context.directory_id) == (1, "dir-1")
            await trio.sleep(0.5 if len(payload) == 0 else 0)
            return CommandDone(0, len(payload)), [payload[:7], payload[7:]]

        two.handlers.on_request(Command, echo)
        link = one.links.link(2)
        await up(link)
        done = []

        async def ask(size):
            data = Random(size).randbytes(size)
            answer, payload = await link.request(Command(), [data[:3], data[3:]], timeout_s=60)
            assert answer == CommandDone(0, size)
            assert bytes(payload) == data
            done.append(size)

        async with trio.open_nursery() as nursery:
            for size in (0, 1, 6 * MIB, 65_536, 200_000, 17):
                nursery.start_soon(ask, size)
        assert len(done) == 6
        assert done[0] != 0, "what takes longer holds up nobody"
        facts, _ = await link.request(AskFacts(), timeout_s=1)
        assert facts == PeerFacts("", (), (1, 2, 3))


async def test_errors_travel_as_what_they_are(autojump_clock):
    """The other node's error is raised here; what it does not serve is said; a late answer is nobody's."""
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))

        async def refuse(_context, _body, _payload):
            raise MetadataConflict("/a has changed meanwhile")

        async def late(_context, _body, _payload):
            await trio.sleep(3)
            return BeatAnswer(True, False), ()

        two.handlers.on_request(Command, refuse)
        link = one.links.link(2)
        await up(link)
        with pytest.raises(MetadataConflict, match="/a has changed"):
            await link.request(Command(), timeout_s=1)
        with pytest.raises(Exception, match="not served"):
            await link.request(Beat(1), timeout_s=1)
        two.handlers.on_request(Beat, late)
        with pytest.raises(PeerUnavailable, match="no answer"):
            await link.request(Beat(1), timeout_s=1)
        await trio.sleep(5)
        assert link.is_up
        assert (await link.request(Beat(1), timeout_s=9))[0] == BeatAnswer(True, False)


async def test_who_is_cut_off_is_missed_and_found_again(autojump_clock):
    """A silent connection is given up though nothing breaks; afterwards there is a new one."""
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))

        async def echo(_context, _body, payload):
            return CommandDone(0, len(payload)), ()

        two.handlers.on_request(Command, echo)
        link = one.links.link(2)
        await up(link)
        world.network.cut("node-2", "node-1", both=False)
        with pytest.raises(PeerUnavailable):
            await link.request(Command(), [b"x"], timeout_s=60)
        assert not link.is_up
        assert not link.send(RaftMessages("", ()))
        with pytest.raises(PeerUnavailable, match="can't be reached"):
            await link.request(Command(), timeout_s=1)
        world.network.mend_all()
        await up(link)
        assert (await link.request(Command(), [b"x"], timeout_s=1))[0].value == 1


async def test_messages_that_nobody_takes_are_dropped_oldest_first(autojump_clock, monkeypatch):
    """Their memory is bounded, what is newest arrives."""
    monkeypatch.setattr(link_frames, "LINK_MESSAGES_BYTES_MAX", 16 * MIB)
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))
        seen = []
        two.handlers.on_message(RaftMessages, lambda _context, body, payload: seen.append((body.at, len(payload))))
        link = one.links.link(2)
        await up(link)
        world.network.cut("node-1", "node-2", both=False)
        for number in range(40):
            assert link.send(RaftMessages("", (), number), [bytes(MIB)])
        world.network.mend_all()
        await until(lambda: seen and seen[-1] == (39, MIB))
        numbers = [number for number, _ in seen]
        assert numbers == sorted(numbers)
        assert 2 <= len(numbers) <= 16 + 2


async def test_a_node_that_moves_is_followed(autojump_clock):
    """`learn` replaces what --peers said, and makes links to nodes that were not in it."""
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))
        await up(one.links.link(2))
        with pytest.raises(PeerUnavailable, match="nobody knows"):
            one.links.link(4)
        four = book(4)
        await world.host(four)
        one.links.learn(4, "node-4", PORT)
        one.links.learn(1, "node-1", PORT)
        assert one.links.nodes == (2, 3, 4)
        await up(one.links.link(4))
        one.links.learn(2, "node-9", PORT)
        await trio.sleep(3)
        assert one.links.link(2).is_up, "it has proved that it is node 2"
        world.kill(two)
        await down(one.links.link(2))
        await world.host(book(2), machine="node-9")
        await up(one.links.link(2))


async def test_who_is_said_to_be_where_he_is_not_is_found_all_the_same(autojump_clock):
    """What the metadata say may be old: the node has moved since, and --peers knows."""
    async with pair() as world:
        one = await world.host(book(1))
        one.links.learn(2, "node-9", PORT)
        one.links.learn(2, "node-8", PORT)
        await trio.sleep(3)
        await world.host(book(2))
        await up(one.links.link(2))


REFUSED = [
    ("secret", {"secret": "another"}, {}, "another --cluster-secret"),
    ("no secret", {"secret": ""}, {"secret": ""}, "no --cluster-secret is set"),
    ("cluster", {"cluster": "a" * 32}, {"cluster": "b" * 32}, "belongs to cluster"),
]


@pytest.mark.parametrize(("name", "first", "second", "reason"), REFUSED, ids=[row[0] for row in REFUSED])
async def test_strangers_are_refused_with_the_reason(autojump_clock, name, first, second, reason):
    """On both sides, and in the log of both; it is tried again, as the mistake may be mended."""
    async with pair() as world:
        one, two = await world.host(book(1, **first)), await world.host(book(2, **second))
        await trio.sleep(5)
        for host, other in ((one, 2), (two, 1)):
            assert not host.links.link(other).is_up, name
            assert reason in host.links.link(other).reason
        assert reason in world.reasons()


async def test_a_wiped_member_is_told_what_to_do(autojump_clock):
    """It has no cluster and claims a member's number; a member that only looks another to this one comes in."""
    async with pair() as world:
        mine = book(1, cluster="c" * 32)
        mine.members.update({1: "dir-1", 2: "dir-2", 3: "dir-3"})
        await world.host(mine)
        two, three = (
            await world.host(book(2, directory="new")),
            await world.host(book(3, directory="x", cluster="c" * 32)),
        )
        await up(three.links.link(1))
        with trio.fail_after(10):
            while not two.links.link(1).refusal:  # noqa: ASYNC110  # it is seen from outside
                await trio.sleep(0.1)
        assert not two.links.link(1).is_up
        assert "cluster remove 2" in two.links.link(1).reason


async def test_two_nodes_with_one_number(autojump_clock):
    """The first is heard; the other is told, until the first is gone. Nobody is mistaken for oneself."""
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))
        await up(two.links.link(1))
        again = await world.host(book(2, directory="other"), machine="node-8")
        await trio.sleep(3)
        assert "two nodes run with --id 2" in again.links.link(1).reason
        same = await world.host(book(1, directory="mine"), machine="node-7", addresses={2: ("node-1", PORT)})
        await trio.sleep(3)
        assert "finds node 1" in same.links.link(2).reason
        world.kill(two)
        await up(again.links.link(1))
        assert one.book.seen[2].directory_id == "other"


async def test_garbage_costs_its_connection_only(autojump_clock):
    """Bytes that are no frame, no handshake, too large before it, or nonsense after it."""
    async with pair() as world:
        one, two = await world.host(book(1)), await world.host(book(2))
        await up(one.links.link(2))
        pieces = [
            b"\xff" * 100,
            frame.write([100, 1, 0, []]),
            frame.write([101, 1, 0, [b"proof"]]),
            frame.write([100, 1, 0, [1, 3, "d", 2, b"n", "h", 1, ["", [], []]]], FRAME_BYTES_MAX - 1_000),
            frame.write([110, 1, 0, ["", []]]),
            frame.write(list(range(3))),
        ]
        for piece in pieces:
            stream = await world.network.at("node-3").dial("node-2", PORT)
            await stream.send_all([frame.MAGIC, piece])
            buffer = bytearray(1_000)
            with trio.fail_after(30):
                while await stream.receive_into(memoryview(buffer)):
                    pass

        def nonsense(_context, _body, _payload):
            raise WireError("no quorum message")

        two.handlers.on_message(RaftMessages, nonsense)
        link = one.links.link(2)
        assert link.is_up
        assert link.send(RaftMessages("", ()))
        await down(link)
        assert "no quorum message" in link.reason
        await up(link)
