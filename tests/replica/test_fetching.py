"""How a node fetches what it follows: fairly, no more than it may, and on whatever the other side says."""

import attrs
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.replica_messages import FollowerAt, Following
from dduomq.actors.replication import Replication, ReplicationWorld
from dduomq.cluster.ports import PeerUnavailable
from dduomq.errors import NotLeader
from dduomq.observe import silent_log
from dduomq.testing.clock import SimClock
from dduomq.wire.peer_replication import PeerFetched, PeerFetchedPart

TOPIC_ID = "f" * 32


class Leader:
    """The other nodes: `has` so many records of each partition, `piece` of them an answer; one byte is a record."""

    def __init__(self, **has):
        self.has = {int(name[1:]): count for name, count in has.items()}
        self.piece = 10
        self.in_sync = set()  # nothing counts before these have it
        self.asked = []
        self.break_with = None
        self.answer = None
        self.links = {}

    def link(self, node_id):
        return self.links.setdefault(node_id, Link(self))


class Link:
    """What one follower has asked of one leader stands until there is news."""

    def __init__(self, leader):
        self.leader = leader
        self.line = 0
        self.stands = {}

    async def request(self, body, payload=(), *, timeout_s):
        leader = self.leader
        leader.asked.append((trio.current_time(), [part.partition for part in body.parts]))
        await trio.sleep(0.001)
        if leader.break_with is not None:
            raise leader.break_with
        if body.line > self.line:
            self.line, self.stands = body.line, {}
        if body.line == self.line:
            self.stands.update({part.partition: part for part in body.parts})
        if leader.answer is not None and (answer := leader.answer(body)) is not None:
            return answer
        deadline = trio.current_time() + body.max_wait_ms / 1000
        while trio.current_time() < deadline and body.line == self.line:
            if any(leader.has[part.partition] > part.offset for part in self.stands.values()):
                return self._news()
            await trio.sleep(0.005)
        return PeerFetched(()), memoryview(b"")

    def _news(self):
        leader, parts, data = self.leader, [], b""
        for part in list(self.stands.values()):
            end = leader.has[part.partition]
            size = max(min(end - part.offset, leader.piece), 0)
            if not size:
                continue
            del self.stands[part.partition]
            data += bytes(size)
            mark = part.offset if part.partition in leader.in_sync else end
            parts.append(PeerFetchedPart(0, None, mark, 0, end, size, number=part.number))
        return PeerFetched(tuple(parts)), memoryview(data)


class Follower:
    """Stands for a partition: says after a while that it has what came."""

    def __init__(self, number, takes_s=0.002):
        self.mailbox = Mailbox(f"t-{number}")
        self.number, self.takes_s = number, takes_s
        self.offset = 0
        self.heard = []

    def following(self, **fields):
        return attrs.evolve(
            Following(self.mailbox, TOPIC_ID, self.number, 1, 0, self.offset, -1), **fields
        )  # fmt: skip

    async def run(self):
        while True:
            for message in await self.mailbox.drain():
                self.heard.append(message)
                assert message.offset == self.offset
                await trio.sleep(self.takes_s)
                self.offset += len(message.data)
                message.reply.set(FollowerAt(self.offset, 0))


async def playing(leader, followers, scene, **world):
    async with trio.open_nursery() as nursery:
        replication = Replication(ReplicationWorld(leader, lambda: 5, SimClock(), silent_log(), **world))
        nursery.start_soon(replication.run)
        for follower in followers:
            nursery.start_soon(follower.run)
            replication.follow(follower.following())
        await scene(replication)
        nursery.cancel_scope.cancel()


async def test_all_is_fetched(autojump_clock):
    leader, followers = Leader(p0=95, p1=0, p2=30), [Follower(at) for at in range(3)]

    async def scene(replication):
        await trio.sleep(1)
        assert [follower.offset for follower in followers] == [95, 0, 30]
        leader.has[1] = 7
        await trio.sleep(0.1)
        assert followers[1].offset == 7

    await playing(leader, followers, scene)


async def test_a_slow_disk_of_one_holds_up_no_other(autojump_clock):
    leader, followers = Leader(p0=1_000, p1=1_000), [Follower(0, takes_s=5), Follower(1)]

    async def scene(replication):
        await trio.sleep(4)
        assert [follower.offset for follower in followers] == [0, 1_000]

    await playing(leader, followers, scene)


async def test_the_quiet_ones_are_not_asked_for_with_the_busy_one(autojump_clock):
    """Nine of ten have no news: they are asked for now and then, not each time."""
    leader, followers = Leader(**{f"p{at}": 0 for at in range(10)}), [Follower(at) for at in range(10)]

    async def scene(replication):
        for count in range(1, 400):
            leader.has[3] = count
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert followers[3].offset == 399
        quiet = sum(parts.count(7) for _, parts in leader.asked)
        busy = sum(parts.count(3) for _, parts in leader.asked)
        assert busy > 100
        assert quiet == 1

    await playing(leader, followers, scene)


async def test_news_never_wait_long_however_many_fetches_wait(autojump_clock):
    """All fetches that may be on their way are, and one more partition has something to say."""
    leader, followers = Leader(**{f"p{at}": 0 for at in range(40)}), [Follower(at) for at in range(40)]

    async def scene(replication):
        await trio.sleep(0.5)
        for turn in range(1, 60):
            at = turn % 40
            leader.has[at] += 1
            began = trio.current_time()
            while followers[at].offset < leader.has[at]:  # noqa: ASYNC110  # it is seen from outside
                await trio.sleep(0.001)
            assert trio.current_time() - began < 0.1

    await playing(leader, followers, scene)


async def test_catching_up_is_throttled_and_what_is_in_sync_is_not(autojump_clock):
    leader, followers = Leader(p0=5_000, p1=0), [Follower(0), Follower(1)]
    leader.in_sync = {1}

    async def scene(replication):
        for count in range(1, 200):
            leader.has[1] = count
            await trio.sleep(0.01)
            assert followers[1].offset >= count - 5
        assert 100 < followers[0].offset < 300

    await playing(leader, followers, scene, catch_up_bytes_per_s=100)


async def test_the_limit_is_for_all_links_together_and_all_get_their_share(autojump_clock):
    leader, followers = Leader(p0=5_000, p1=5_000, p2=5_000), [Follower(0), Follower(1), Follower(2)]

    async def scene(replication):
        for number, follower in enumerate(followers):
            replication.follow(follower.following(leader=number + 1))
        await trio.sleep(10)
        got = [follower.offset for follower in followers]
        assert 900 < sum(got) < 1_100
        assert min(got) > 100

    await playing(leader, followers, scene, catch_up_bytes_per_s=100)


async def test_a_busy_link_keeps_its_place_in_the_line(autojump_clock):
    """All fetches that a link may have are always under way, for partitions that have news now and then."""
    leader, followers = Leader(**{f"p{at}": 0 for at in range(34)}), [Follower(at) for at in range(34)]
    leader.has.update(dict.fromkeys(range(30, 34), 100000))
    leader.in_sync = set(range(30))

    async def scene(replication):
        for follower in followers[31:]:
            replication.follow(follower.following(leader=2))
        for turn in range(2_000):
            leader.has[turn % 30] += 1
            await trio.sleep(0.01)
        got = [follower.offset for follower in followers[30:]]
        assert 1_800 < sum(got) < 2_300
        assert got[0] > 400  # half of it, or what three others leave

    await playing(leader, followers, scene, catch_up_bytes_per_s=100)


async def test_the_first_pieces_count_too(autojump_clock):
    """Nobody knows before that they are behind: they come at once, and what comes next waits the longer for that."""
    leader, followers = Leader(**{f"p{at}": 500 for at in range(100)}), [Follower(at) for at in range(100)]

    async def scene(replication):
        await trio.sleep(8)
        assert sum(follower.offset for follower in followers) == 1_000
        await trio.sleep(8)
        assert 1_400 < sum(follower.offset for follower in followers) < 1_700

    await playing(leader, followers, scene, catch_up_bytes_per_s=100)


async def test_a_leader_that_does_not_answer_holds_up_no_other(autojump_clock):
    """What one link has asked for counts against the limit only until that much time has gone by."""
    leader, followers = Leader(p0=5_000_000, p1=5_000_000), [Follower(0), Follower(1)]
    leader.piece = 100_000

    async def request(body, payload=(), *, timeout_s):
        await trio.sleep(timeout_s)
        raise PeerUnavailable("no answer")

    leader.link(1).request = request

    async def scene(replication):
        replication.follow(followers[1].following(leader=2))
        await trio.sleep(10)
        assert followers[1].offset > 4_500_000

    await playing(leader, followers, scene, catch_up_bytes_per_s=500_000)


async def test_a_link_that_is_down_is_not_asked_without_end(autojump_clock):
    leader, followers = Leader(p0=10), [Follower(0)]
    leader.break_with = PeerUnavailable("down")

    async def scene(replication):
        await trio.sleep(60)
        assert 20 < len(leader.asked) < 60
        leader.break_with = None
        await trio.sleep(3)
        assert followers[0].offset == 10

    await playing(leader, followers, scene)


async def test_one_that_is_refused_holds_up_no_other(autojump_clock):
    leader, followers = Leader(p0=10, p1=10), [Follower(0), Follower(1)]

    def answer(body):
        parts = tuple(
            PeerFetchedPart(NotLeader.code, "not me", number=part.number) if part.partition == 0 else
            PeerFetchedPart(0, None, 10, 0, 10, 10 - part.offset, number=part.number)
            for part in body.parts
        )  # fmt: skip
        return PeerFetched(parts), memoryview(bytes(sum(part.size for part in parts)))

    leader.answer = answer

    async def scene(replication):
        await trio.sleep(0.05)
        assert [follower.offset for follower in followers] == [0, 10]
        assert sum(parts.count(0) for _, parts in leader.asked) < 5
        replication.unfollow(followers[1].mailbox)
        leader.answer = None
        await trio.sleep(3)
        assert followers[0].offset == 10

    await playing(leader, followers, scene)


async def test_answers_that_make_no_sense_are_no_answers(autojump_clock):
    leader, followers = Leader(p0=10), [Follower(0)]
    answers = [
        (PeerFetched(()), memoryview(b"")),
        (PeerFetched((PeerFetchedPart(0, None, 10, 0, 10, 10, number=1),)), memoryview(b"short")),
        (PeerFetched((PeerFetchedPart(0, None, 10, 0, 10, -3, number=1),)), memoryview(b"")),
        (PeerFetched((PeerFetchedPart(0, None, 10, 0, 10, 0, number=7_000_000),)), memoryview(b"")),
        (None, memoryview(b"")),
    ]
    leader.answer = lambda body: answers[len(leader.asked) % len(answers)]

    async def scene(replication):
        await trio.sleep(20)
        assert followers[0].heard == []
        leader.answer = None
        await trio.sleep(3)
        assert followers[0].offset == 10

    await playing(leader, followers, scene)


async def test_a_leader_that_does_not_wait_for_news_is_not_asked_without_end(autojump_clock):
    """Now and then it may say at once that there are none: the other fetches wait on."""
    leader, followers = Leader(p0=0), [Follower(0)]
    empty = iter([True] * 2)
    leader.answer = lambda body: (PeerFetched(()), memoryview(b""))

    async def scene(replication):
        await trio.sleep(60)
        assert 20 < len(leader.asked) < 100
        leader.answer = None
        await trio.sleep(3)
        asked = len(leader.asked)
        leader.answer = lambda body: (PeerFetched(()), memoryview(b"")) if next(empty, False) else None
        await trio.sleep(3)
        leader.has[0] = 5
        await trio.sleep(0.1)
        assert followers[0].offset == 5
        assert len(leader.asked) - asked < 10

    await playing(leader, followers, scene)


async def test_what_comes_after_the_leader_has_changed_is_dropped(autojump_clock):
    leader, followers = Leader(p0=0), [Follower(0)]

    async def scene(replication):
        await trio.sleep(0.01)
        replication.follow(followers[0].following(leader=2, leader_epoch=1))
        leader.has[0] = 5
        await trio.sleep(1)
        assert {message.leader_epoch for message in followers[0].heard} == {1}
        replication.unfollow(followers[0].mailbox)
        leader.has[0] = 9
        await trio.sleep(5)
        assert followers[0].offset == 5

    await playing(leader, followers, scene)
