"""A client and several nodes: it finds who leads, follows those who lead next, and loses and doubles nothing."""

from itertools import pairwise
from random import Random

import anyio
import pytest
import trio

from dduomq.client.group_events import Lost
from dduomq.errors import DduomqError, NetworkError, NotEnoughReplicas, OutcomeUnknown, UsageError
from dduomq.wire import native
from dduomq.wire.batch import read_header
from dduomq.wire.cluster_errors import MetadataUnavailable
from tests.client.split import split, until

PARTITIONS = 3


def value(record):
    return int(record.raw_value)


async def stored(cluster, partitions=PARTITIONS, topic="t"):
    """What the log of each partition holds, past all fronts."""
    async with cluster.machine.client() as mq:
        found = {}
        for partition in range(partitions):
            found[partition], at = [], 0
            while records := await mq.pull(topic, partition=partition, offset=at, wait=0):
                found[partition] += map(value, records)
                at = records[-1].offset + 1
        return found


# --- coming up, and finding nodes -------------------------------------------------------------------


async def test_any_bootstrap_node_will_do(autojump_clock):
    """Two of three are down; and the one that answered may go when others are known."""
    async with split() as cluster:
        await cluster.kill(1)
        async with cluster.connect(1, 9, 2) as mq:
            assert (await mq.send("t", "1", partition=1)).offset == 0
            cluster.fronts[1].revive()
            await cluster.kill(2)
            assert (await mq.send("t", "2", partition=1)).offset == 1
            assert [topic.name for topic in await mq.admin.list_topics()] == ["t"]
        assert (await stored(cluster))[1] == [1, 2]


async def test_nobody_at_any_address(autojump_clock):
    async with split() as cluster:
        for node_id in (1, 2, 3):
            await cluster.kill(node_id, elect=False)
        with pytest.raises(NetworkError, match=r"sim:7001 .*sim:7002 .*sim:7003"):
            async with cluster.connect():
                pass


async def test_one_address_is_enough_and_each_node_has_one_connection(autojump_clock):
    async with split() as cluster, cluster.connect(3) as mq:
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(lambda n=number: mq.send("t", str(n), partition=n % PARTITIONS))
        assert sorted(cluster.dialled) == [1, 2, 3]
        assert {(node_id, partition) for node_id, _, partition, _ in cluster.produced} == {(1, 0), (2, 1), (3, 2)}


async def test_a_silent_node_is_passed_by(autojump_clock):
    """It takes everything and says nothing, as behind a cut cable: what others lead, and lead next, goes on."""
    async with split() as cluster, cluster.connect() as mq:
        for partition in range(PARTITIONS):
            await mq.send("t", "0", partition=partition)
        cluster.fronts[1].freeze()
        await mq.send("t", "1", partition=1)
        with anyio.fail_after(4):  # the request's time, and a question to another node
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: mq.send("t", "1", partition=0))
                await anyio.sleep(1)
                await cluster.elect_without(1)
        assert await mq.admin.count_delayed() == 0
        assert (await mq.pull("t", partition=0))[-1].raw_value == b"1"


async def test_a_node_that_says_nothing_is_asked_for_nothing_that_others_know(autojump_clock):
    """Once it has been waited for in vain, the next question goes elsewhere at once."""
    async with split() as cluster, cluster.connect(1, 2, 3) as mq:
        await mq.admin.list_topics()
        cluster.fronts[1].freeze()
        with anyio.fail_after(6):
            await mq.admin.list_topics()
        with anyio.fail_after(0.1):
            await mq.admin.list_topics()
        cluster.fronts[1].thaw()
        with anyio.fail_after(1):
            await mq.send("t", "0", partition=0)


async def test_whoever_comes_to_a_node_by_two_ways_has_one_connection(autojump_clock):
    """One asks for any node, one for this: both begin to dial."""
    async with split() as cluster, cluster.connect(3) as mq:
        await mq.send("t", "0", partition=2)
        found = []

        async def ask(question):
            found.append(await question)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, mq._wire.nodes.node(1))
            tasks.start_soon(ask, mq._wire.nodes.any({2, 3}))
        assert found[0] is found[1]
        assert cluster.dialled == [3, 1, 1]
        await trio.sleep(1)
        assert [link.is_over for link in cluster.fronts[1].links].count(False) == 1


@pytest.mark.parametrize("ticks", [0, 1, 2, 20])
async def test_who_waits_for_a_connection_when_the_client_closes_is_told(autojump_clock, ticks):
    """From outside of its block, too; whether dialling has begun or not."""
    async with split() as cluster, trio.open_nursery() as nursery:
        told = []

        async def ask(mq):
            with pytest.raises(UsageError, match="closed"):
                await mq._wire.nodes.node(2)
            told.append(True)

        async with cluster.connect(1) as mq:
            await mq.send("t", "0", partition=0)
            cluster.hangs.add(2)
            nursery.start_soon(ask, mq)
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()
        with anyio.fail_after(1):
            await until(lambda: told)


# --- sending ----------------------------------------------------------------------------------------


async def keep_sending(mq, partition, numbers, ended):
    """Hand records over without awaiting them, a few at a time; note how each ended."""
    for number in numbers:

        def note(result, error, number=number):
            ended[number] = error if result is None else result.offset

        await mq.send_async("t", str(number), partition=partition, callback=note)
        if number % 7 == 0:
            await trio.sleep(0.02)


@pytest.mark.parametrize("seed", range(12))
async def test_leaders_that_move_and_die_lose_and_double_nothing(autojump_clock, seed):
    """Under load, with batches in flight at the moment: each record once, in its sender's order."""
    rng = Random(seed)
    async with split(seed=seed) as cluster, cluster.connect(seed=seed, batch_bytes=400) as mq:
        ended = {partition: {} for partition in range(PARTITIONS)}
        async with anyio.create_task_group() as tasks:
            for partition in range(PARTITIONS):
                tasks.start_soon(keep_sending, mq, partition, range(300), ended[partition])
            for _ in range(6):
                await trio.sleep(rng.uniform(0.01, 0.25))
                alive = [at for at, front in cluster.fronts.items() if front.is_alive]
                if len(alive) == 3 and rng.random() < 0.6:
                    gone = rng.choice(alive)
                    await cluster.kill(gone, elect=False)
                    await trio.sleep(rng.uniform(0.0, 0.5))
                    await cluster.elect_without(gone)
                else:
                    for at, front in cluster.fronts.items():
                        if not front.is_alive:
                            front.revive()
                            alive.append(at)
                    place = ("t", rng.randrange(PARTITIONS))
                    await cluster.move(place, rng.choice(alive))
        await mq.flush()
        for partition, found in (await stored(cluster)).items():
            assert found == list(range(300)), "each once, in order"
            assert ended[partition] == {number: number for number in range(300)}


async def test_a_batch_that_comes_again_by_another_node_is_the_same(autojump_clock):
    """It was stored, its leader died before it said so: same producer, same epoch, same sequence, same offset."""
    async with split() as cluster, cluster.connect() as mq:
        await mq.send("t", "0", partition=0)
        cluster.fronts[1].mute.add("Produce")
        async with anyio.create_task_group() as tasks:
            results = []

            async def send():
                results.append(await mq.send("t", "1", partition=0))

            tasks.start_soon(send)
            await until(lambda: len(cluster.produced) == 2)
            await trio.sleep(0.5)
            await cluster.kill(1)
        (_, *_), (first, *_, sent), (second, *_, again) = cluster.produced
        assert (first, sent) == (1, again)
        assert second != 1
        assert [result.offset for result in results] == [1]
        assert await stored(cluster) == {0: [0, 1], 1: [], 2: []}


async def test_nothing_goes_to_the_new_leader_before_the_old_one_has_answered(autojump_clock):
    """The client knows of the new leader, but some batches are at the old one: who of them is stored nobody knows."""
    async with split() as cluster, cluster.connect(request_timeout=10, batch_bytes=200) as mq:
        await mq.send("t", "0", partition=0)
        cluster.fronts[1].mute.add("Produce")
        deliveries = [await mq.send_async("t", str(number), partition=0) for number in range(1, 16)]
        await until(lambda: len(cluster.produced) > 1)
        await trio.sleep(1)
        under_way = len(cluster.produced)
        assert 2 <= under_way <= 5, "of five that may be under way one is left, at least"
        cluster.leaders["t", 0] = (2, 5)
        mq._wire.doubt("t")
        await until(lambda: mq._wire.routes.leader("t", 0).node_id == 2)
        deliveries += [await mq.send_async("t", str(number), partition=0) for number in range(16, 100)]
        await trio.sleep(2)
        assert len(cluster.produced) == under_way
        await cluster.fronts[1].unmute()
        results = [await delivery for delivery in deliveries]
        assert [result.offset for result in results] == list(range(1, 100))
        assert {node_id for node_id, *_ in cluster.produced[under_way:]} == {2}
        assert (await stored(cluster))[0] == list(range(100))
        headers = [read_header(data) for *_, data in cluster.produced]
        assert len({(header.producer_id, header.producer_epoch) for header in headers}) == 1
        assert all(b.base_sequence == a.base_sequence + a.count for a, b in pairwise(headers))


async def test_a_leader_that_answers_too_late_is_not_waited_for_for_ever(autojump_clock):
    """When a request's time is over its batches go to the new leader, who knows those that are stored."""
    async with split() as cluster, cluster.connect(request_timeout=2) as mq:
        await mq.send("t", "0", partition=0)
        cluster.fronts[1].mute.add("Produce")
        async with anyio.create_task_group() as tasks:
            for number in (1, 2, 3):
                tasks.start_soon(lambda n=number: mq.send("t", str(n), partition=0))
                await trio.sleep(0.1)
            cluster.leaders["t", 0] = (3, 2)
        assert (await stored(cluster))[0] == [0, 1, 2, 3]
        assert cluster.produced[-1][0] == 3


async def test_a_topic_that_is_being_made_is_waited_for(autojump_clock):
    """It has an id, and no partitions yet; then partitions, and nobody who leads them."""
    async with split() as cluster, cluster.connect() as mq:
        cluster.unborn.add("t")
        cluster.leaders.update({("t", at): (-1, 0) for at in range(PARTITIONS)})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: mq.send("t", "0", partition=2))
            await trio.sleep(1)
            cluster.unborn.clear()
            await trio.sleep(1)
            assert not cluster.produced
            for at in range(PARTITIONS):
                cluster.leaders["t", at] = (1 + at, 1)
        assert (await stored(cluster))[2] == [0]


async def test_too_few_replicas_are_waited_for(autojump_clock):
    """Nothing was stored: the same batch is sent until there are enough, or the time is over."""
    async with split() as cluster, cluster.connect(delivery_timeout=5) as mq:
        await mq.send("t", "0", partition=0)
        cluster.fronts[1].refuse["Produce"] = NotEnoughReplicas.code
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: mq.send("t", "1", partition=0))
            await trio.sleep(3)
            assert (await stored(cluster))[0] == [0]
            cluster.fronts[1].refuse.clear()
        assert (await stored(cluster))[0] == [0, 1]
        cluster.fronts[1].refuse["Produce"] = NotEnoughReplicas.code
        with pytest.raises(NotEnoughReplicas):
            await mq.send("t", "2", partition=0)


async def test_a_node_that_is_away_holds_up_only_what_it_leads(autojump_clock):
    """Nobody is elected in its place: the others' partitions go on, its own records end by their delivery time."""
    async with split() as cluster, cluster.connect(delivery_timeout=4) as mq:
        for partition in range(PARTITIONS):
            await mq.send("t", "0", partition=partition)
        await cluster.kill(2, elect=False)
        failed = []

        async def send_in_vain():
            try:
                await mq.send("t", "1", partition=1)
            except DduomqError as error:
                failed.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_in_vain)
            with anyio.fail_after(2):
                for number in range(1, 20):
                    await mq.send("t", str(number), partition=0)
        [error] = failed
        assert "sim:7002" in error.message or "leader" in error.message
        assert not isinstance(error, OutcomeUnknown), "it has never left"


async def test_a_late_word_of_an_old_leader_is_not_believed(autojump_clock):
    """Metadata of a node that is behind the others names a leader of an older epoch."""
    async with split() as cluster, cluster.connect() as mq:
        await mq.send("t", "0", partition=0)
        await cluster.move(("t", 0), 3)
        await mq.send("t", "1", partition=0)
        cluster.leaders["t", 0] = (1, 1)
        await mq._wire.ask(native.Metadata(("t",)), 1_000)
        assert mq._wire.routes.leader("t", 0).node_id == 3


# --- reading ----------------------------------------------------------------------------------------


async def test_pulling_goes_to_the_leader_and_follows_it(autojump_clock):
    async with split() as cluster, cluster.connect() as mq:
        for number in range(9):
            await mq.send("t", str(number), partition=number % PARTITIONS)
        for partition in range(PARTITIONS):
            await cluster.move(("t", partition), 1 + (partition + 1) % 3)
            assert [value(r) for r in await mq.pull("t", partition=partition)] == [partition + n for n in (0, 3, 6)]
        assert await mq.admin.offset("t", 2, "latest") == 3
        await cluster.kill(1)
        assert len(await mq.pull("t", partition=2)) == 3
        assert await mq.admin.purge("t") == {0: 3, 1: 3, 2: 3}


async def test_a_reader_follows_all_leaders(autojump_clock):
    """One fetch at each node; a node without news holds up none that has some; moves and deaths lose nothing."""
    async with split() as cluster, cluster.connect() as mq, mq.reader("t") as reader:
        seen = []

        async def read():
            async for record in reader:
                place = (record.partition, value(record))
                seen.append(place)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for number in range(60):
                if number == 20:
                    await cluster.move(("t", 0), 2)
                if number == 40:
                    await cluster.kill(3)
                await mq.send("t", str(number), partition=number % PARTITIONS)
                await trio.sleep(0.05)
            await until(lambda: len(seen) == 60)
            tasks.cancel_scope.cancel()
        for partition in range(PARTITIONS):
            assert [n for p, n in seen if p == partition] == list(range(partition, 60, PARTITIONS))


async def test_a_node_without_news_holds_up_no_reader(autojump_clock):
    """Its fetch stays under way until something comes."""
    async with split() as cluster, cluster.connect() as mq, mq.reader("t", wait=30) as reader:
        await mq.send("t", "1", partition=1)
        with anyio.fail_after(1):
            assert [value(record) for record in await reader.pull()] == [1]
        before = cluster.fronts[1].asked.count("Fetch")
        await mq.send("t", "2", partition=0)
        with anyio.fail_after(1):
            assert [value(record) for record in await reader.pull()] == [2]
        assert before == cluster.fronts[1].asked.count("Fetch") == 1
        assert await reader.pull(timeout=0.1) == []


async def test_a_node_that_is_away_holds_up_no_reader(autojump_clock):
    """What it leads is missing until somebody else leads it; the rest comes."""
    async with split() as cluster, cluster.connect() as mq, mq.reader("t") as reader:
        seen = []

        async def read():
            async for record in reader:
                number = value(record)
                seen.append(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for number in range(3):
                await mq.send("t", str(number), partition=number)
            await until(lambda: len(seen) == 3)
            await cluster.kill(2, elect=False)
            for number in range(3, 20):
                with anyio.fail_after(2):
                    await mq.send("t", str(number), partition=0)
                    await until(lambda: len(seen) == number + 1)  # noqa: B023  # it is awaited at once
            tasks.cancel_scope.cancel()
        assert sorted(seen) == list(range(20))


async def test_a_reader_that_seeks_waits_for_nothing_that_it_has_asked_before(autojump_clock):
    """Fetches of long ago are under way: one at the place where it was is of no use."""
    async with split() as cluster, cluster.connect() as mq:
        for number in range(6):
            await mq.send("t", str(number), partition=number % 2)
        async with mq.reader("t", start="latest", wait=30) as reader:
            assert await reader.pull(timeout=0.1) == []
            with anyio.fail_after(1):
                reader.seek(0, 1)
                assert [value(record) for record in await reader.pull()] == [2, 4]
                reader.pause(1)
                reader.seek(1, 0)
                await mq.send("t", "6", partition=0)
                assert [value(record) for record in await reader.pull()] == [6]
                reader.resume(1)
                assert [value(record) for record in await reader.pull()] == [1, 3, 5]


@pytest.mark.parametrize("partitions", [[0], [0, 1]])
async def test_what_was_asked_for_before_a_seek_does_not_count(autojump_clock, partitions):
    """It comes afterwards, and must neither be shown nor move the reader."""
    async with split() as cluster, cluster.connect() as mq:
        for number in range(3):
            await mq.send("t", str(number), partition=0)
        async with mq.reader("t", partitions=partitions, start="latest", wait=30) as reader:
            seen = []

            async def read():
                while len(seen) < 4:
                    seen.extend(map(value, await reader.pull()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await trio.sleep(1)
                reader.seek(0, 0)
                await mq.send("t", "3", partition=0)
            assert seen == [0, 1, 2, 3]


# --- groups -----------------------------------------------------------------------------------------


async def consume(mq, seen, events, **options):
    async with mq.consumer("t", group="g", **options) as consumer, anyio.create_task_group() as tasks:

        async def listen():
            async for event in consumer.events():
                events.append(event)  # there is no end of them

        tasks.start_soon(listen)
        async for record in consumer:
            seen.append((record.partition, value(record)))


@pytest.mark.parametrize("seed", range(6))
async def test_streams_follow_their_leaders(autojump_clock, seed):
    """From the exact next offset, whether the old leader ends the stream or dies: nothing twice, nothing lost."""
    rng = Random(seed)
    async with split(seed=seed) as cluster, cluster.connect(seed=seed) as mq, cluster.connect(seed=99) as sender:
        cluster.coordinators["g"] = 3
        seen, events = [], []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, mq, seen, events)
            for number in range(150):
                await sender.send("t", str(number), partition=number % PARTITIONS)
                if number % 20 == 10:
                    alive = [at for at, front in cluster.fronts.items() if front.is_alive]
                    await cluster.move(("t", rng.randrange(PARTITIONS)), rng.choice(alive))
                if number == 75:
                    await cluster.kill(rng.choice([1, 2]))
            await until(lambda: len(seen) == 150)
            await trio.sleep(2)
            tasks.cancel_scope.cancel()
        for partition in range(PARTITIONS):
            assert [n for p, n in seen if p == partition] == list(range(partition, 150, PARTITIONS))
        assert not [event for event in events if isinstance(event, Lost)]


async def test_a_stream_is_moved_when_only_the_metadata_says_so(autojump_clock):
    """The old leader is cut off and says nothing: it is asked whether it lives, then the stream goes elsewhere."""
    async with split() as cluster, cluster.connect() as mq, cluster.connect(seed=99) as sender:
        cluster.coordinators["g"] = 3
        seen = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, mq, seen, [])
            await sender.send("t", "0", partition=0)
            await until(lambda: len(seen) == 1)
            cluster.fronts[1].freeze()
            await cluster.elect_without(1)
            await sender.send("t", "1", partition=0)
            with anyio.fail_after(40):
                await until(lambda: len(seen) == 2)
            tasks.cancel_scope.cancel()
        assert seen == [(0, 0), (0, 1)]


async def test_a_stream_goes_to_the_new_leader_though_the_old_one_has_not_ended_it(autojump_clock):
    """Somebody else's request has shown that the leader is another one."""
    async with split() as cluster, cluster.connect() as mq:
        cluster.coordinators["g"] = 3
        seen = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, mq, seen, [])
            await mq.send("t", "0", partition=0)
            await until(lambda: len(seen) == 1)
            streams = cluster.fronts[2].asked.count("Push")
            await cluster.move(("t", 0), 2, tell=False)
            await mq.send("t", "1", partition=0)
            await until(lambda: cluster.fronts[2].asked.count("Push") == streams + 1)
            await until(lambda: len(seen) == 2)
            await trio.sleep(1)
            tasks.cancel_scope.cancel()
        assert seen == [(0, 0), (0, 1)]
        assert cluster.fronts[1].asked.count("Credit") > 0


@pytest.mark.parametrize("is_dead", [False, True])
async def test_a_membership_outlives_its_coordinator(autojump_clock, is_dead):
    """Same member, same epoch; what is committed goes to the new one, and nothing is read twice."""
    async with split() as cluster, cluster.connect() as mq, cluster.connect(seed=99) as sender:
        cluster.coordinators["g"] = 2
        seen, events = [], []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume, mq, seen, events)
            for number in range(30):
                await sender.send("t", str(number), partition=number % PARTITIONS)
            await until(lambda: len(seen) == 30)
            [member] = (await sender.admin.describe_group("g")).members
            if is_dead:
                await cluster.kill(2)
            else:
                cluster.coordinators["g"] = 1
            for number in range(30, 60):
                await sender.send("t", str(number), partition=number % PARTITIONS)
            await until(lambda: len(seen) == 60)
            await trio.sleep(5)
            [after] = (await sender.admin.describe_group("g")).members
            assert (after.member_id, after.epoch) == (member.member_id, member.epoch)
            tasks.cancel_scope.cancel()
        assert sorted(n for _, n in seen) == list(range(60))
        assert not [event for event in events if isinstance(event, Lost)]
        assert sum((await sender.admin.group_offsets("g")).values()) >= 59
        assert cluster.fronts[1].asked.count("CommitOffsets") > 0


async def test_what_steps_aside_and_what_a_queue_does_follow_the_coordinator(autojump_clock):
    """Words about records are said again at the new one."""
    async with split() as cluster, cluster.connect() as mq:
        cluster.coordinators.update({"g": 2, "q": 2})
        for number in range(12):
            await mq.send("t", str(number), partition=number % PARTITIONS)
        async with mq.queue("t", group="q") as queue:
            done = [value(record) for record in await queue.pull(4)]
            cluster.coordinators["q"] = 3
            while len(done) < 12:
                done += [value(record) for record in await queue.pull(4)]
        assert sorted(done) == list(range(12))
        assert sum(part.end for part in (await mq.admin.describe_queue("q")).parts if part.topic == "t") == 12
        async with mq.consumer("t", group="g") as consumer:
            record = await anext(consumer)
            await cluster.kill(2)
            await record.reject("no good")
            await trio.sleep(5)  # it goes through a wheel
        [letters] = await mq.admin.dead_letter_groups()
        assert (letters.group, letters.count) == ("g", 1)


# --- administration ---------------------------------------------------------------------------------


async def test_who_asks_about_groups_is_sent_to_their_coordinator(autojump_clock):
    async with split() as cluster, cluster.connect() as mq:
        cluster.coordinators["g"] = 2
        async with mq.consumer("t", group="g") as consumer:
            await until(lambda: len(consumer.assignment) == PARTITIONS)
        assert (await mq.admin.describe_group("g")).state == "Empty"
        await cluster.kill(2)
        moved = await mq.admin.reset_group("g", "t", "latest")
        assert sorted(moved) == [0, 1, 2]
        assert len(await mq.admin.group_lag("g")) == PARTITIONS
        await mq.admin.delete_group("g")


async def test_what_does_nothing_more_when_said_twice_goes_to_another_node(autojump_clock):
    """What would is not said again by itself."""
    async with split() as cluster, cluster.connect(1, 2) as mq:
        await mq.admin.list_topics()
        cluster.fronts[1].mute |= {"DescribeTopic", "CreateTopic"}
        async with anyio.create_task_group() as tasks:
            found, failed = [], []

            async def describe():
                found.append(await mq.admin.describe_topic("t"))

            async def create():
                try:
                    await mq.admin.create_topic("u", partitions=1)
                except OutcomeUnknown as error:
                    failed.append(error)

            tasks.start_soon(describe)
            tasks.start_soon(create)
            await trio.sleep(1)
            await cluster.kill(1)
        assert [one.name for one in found] == ["t"]
        assert len(failed) == 1


async def test_a_node_that_can_not_reach_the_metadata_is_passed_by(autojump_clock):
    """Nothing was applied, so another one is asked; when none can, they are waited for, not for ever."""
    async with split() as cluster, cluster.connect(1) as mq:
        await mq.admin.list_topics()
        cluster.fronts[1].refuse["CreateTopic"] = MetadataUnavailable.code
        assert (await mq.admin.create_topic("u", partitions=1)).name == "u"
        for front in cluster.fronts.values():
            front.refuse["CreateTopic"] = MetadataUnavailable.code
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: mq.admin.create_topic("v", partitions=1))
            await trio.sleep(2)
            cluster.fronts[3].refuse.clear()
        assert [topic.name for topic in await mq.admin.list_topics()] == ["t", "u", "v"]
        cluster.fronts[3].refuse["CreateTopic"] = MetadataUnavailable.code
        with anyio.fail_after(60), pytest.raises(MetadataUnavailable):
            await mq.admin.create_topic("w", partitions=1)
