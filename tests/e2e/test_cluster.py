"""Three real nodes on this machine, under Kafka's clients and our own, that lose leaders, links and time."""

import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress

import pytest
import trio
from confluent_kafka import Consumer, KafkaException, Producer

import dduomq
from dduomq.errors import DduomqError
from tests.e2e.cuts import Cuts
from tests.e2e.processes import Cluster

PARTITIONS = 3
TOPIC = {"partitions": PARTITIONS, "replication": 3, "config": {"min.insync.replicas": "2"}}
PAUSE_S = 0.003
TIMEOUT_S = 90
ROUND_S = 2.5  # longer than a session


class Foreign:
    """confluent-kafka, one partition each: numbers from 0 on, and which of them were acknowledged at which offset."""

    def __init__(self, cluster, topic):
        self._cluster = cluster
        self._topic = topic
        self._is_over = False
        self.acked = [{} for _ in range(PARTITIONS)]
        self._threads = [threading.Thread(target=self._send, args=(at,)) for at in range(PARTITIONS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._is_over = True
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def _send(self, partition):
        producer = Producer(
            {
                "bootstrap.servers": self._cluster.addresses,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": TIMEOUT_S * 1000,
                "log_level": 0,
            }
        )

        def report(error, message):
            if error is None:
                self.acked[partition][int(message.value())] = message.offset()

        number = 0
        while not self._is_over:
            producer.produce(self._topic, str(number), partition=partition, on_delivery=report)
            producer.poll(PAUSE_S)
            number += 1
        assert producer.flush(TIMEOUT_S) == 0, "what was handed over is sent in the end"

    def count(self):
        return sum(len(numbers) for numbers in self.acked)

    def wait_for_more(self, count):
        """Until so many more were acknowledged."""
        wanted, deadline = self.count() + count, time.monotonic() + TIMEOUT_S
        while self.count() < wanted:
            assert time.monotonic() < deadline, "sending does not go on"
            time.sleep(0.05)


class Group:
    """Members of a consumer group, and what they have read."""

    def __init__(self, cluster, topic, members=2):
        self._cluster = cluster
        self._topic = topic
        self._is_over = False
        self.read = set()
        self._threads = [threading.Thread(target=self._read) for _ in range(members)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._is_over = True
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def _read(self):
        options = {
            "bootstrap.servers": self._cluster.addresses, "group.id": "g", "auto.offset.reset": "earliest",
            "session.timeout.ms": 6_000, "auto.commit.interval.ms": 200, "log_level": 0,
        }  # fmt: skip
        with closing(Consumer(options)) as consumer:
            consumer.subscribe([self._topic])
            while not self._is_over:
                try:
                    message = consumer.poll(0.1)
                except KafkaException:
                    continue
                if message is not None and message.error() is None:
                    self.read.add((message.partition(), int(message.value())))

    def wait_for(self, wanted):
        deadline = time.monotonic() + TIMEOUT_S
        while not wanted <= self.read:
            assert time.monotonic() < deadline, f"the group does not read {len(wanted - self.read)} records"
            time.sleep(0.1)


async def everything(addresses, topic):
    """By partition, all records in log order: (offset, number)."""
    found = []
    async with dduomq.connect(addresses) as mq:
        for partition in range(PARTITIONS):
            numbers = []
            async with mq.reader(topic, partitions=[partition]) as reader:
                end = await mq.admin.offset(topic, partition, "latest")
                while reader.position(partition) < end:
                    numbers += [(record.offset, int(record.value)) for record in await reader.pull(10_000)]
            found.append(numbers)
    return found


def check(found, acked):
    """Nothing acknowledged is lost or has moved, nothing is there twice, all is in order."""
    for numbers, told in zip(found, acked, strict=True):
        values = [value for _, value in numbers]
        assert len(set(values)) == len(values), "a record is there twice"
        assert values == sorted(values), "records are out of order"
        held = {value: offset for offset, value in numbers}
        lost = [value for value, offset in told.items() if held.get(value) != offset]
        assert not lost, f"{len(lost)} acknowledged records are lost or have moved, first {lost[0]}"


async def leaders(cluster, topic):
    async with dduomq.connect(cluster.addresses) as mq:
        return [part.leader for part in (await mq.admin.describe_topic(topic)).partitions]


async def make(cluster, topic):
    async with dduomq.connect(cluster.addresses) as mq:
        await mq.admin.create_topic(topic, **TOPIC)


@contextmanager
def loaded(tmp_path, *, dial_through=None):
    """A cluster with a topic, senders to it, and a group that reads it; all is checked at the end."""
    with Cluster(tmp_path, dial_through=dial_through) as cluster:
        trio.run(make, cluster, "load")
        with Group(cluster, "load") as group:
            with Foreign(cluster, "load") as senders:
                senders.wait_for_more(200)
                yield cluster, senders
                senders.wait_for_more(200)
            found = trio.run(everything, cluster.addresses, "load")
            check(found, senders.acked)
            group.wait_for({(at, value) for at, numbers in enumerate(found) for _, value in numbers})
        assert [cluster.nodes[node].stop() for node in cluster.ports] == [0, 0, 0]


@pytest.mark.slow
def test_leaders_are_killed_one_after_the_other(tmp_path):
    """Each comes back and catches up before the next one goes."""
    with loaded(tmp_path) as (cluster, senders):
        for partition in range(PARTITIONS):
            leader = trio.run(leaders, cluster, "load")[partition]
            cluster.nodes[leader].kill()
            senders.wait_for_more(200)
            cluster.start(leader)
            time.sleep(ROUND_S)


@pytest.mark.slow
def test_a_leader_that_stands_still_is_no_leader_when_it_goes_on(tmp_path):
    """SIGSTOP: another one leads; what it still has in hand when it is woken is not acknowledged."""
    with loaded(tmp_path) as (cluster, senders):
        for partition in range(2):
            leader = trio.run(leaders, cluster, "load")[partition]
            cluster.nodes[leader].freeze()
            senders.wait_for_more(200)
            cluster.nodes[leader].thaw()
            time.sleep(ROUND_S)


@pytest.mark.slow
def test_a_leader_that_is_cut_off_acknowledges_nothing_that_is_lost(tmp_path):
    """Clients still reach it, the other nodes do not; then two nodes do not hear each other."""
    cuts = Cuts()
    try:
        with loaded(tmp_path, dial_through=cuts.through) as (cluster, senders):
            cuts.nodes = cluster.nodes
            for partition in range(2):
                leader = trio.run(leaders, cluster, "load")[partition]
                cuts.isolate(leader)
                time.sleep(ROUND_S)
                senders.wait_for_more(50)
                cuts.mend()
                time.sleep(ROUND_S)
            first, second = trio.run(leaders, cluster, "load")[0], 1 + trio.run(leaders, cluster, "load")[0] % 3
            cuts.cut(first, second)
            time.sleep(ROUND_S)
            cuts.mend()
    finally:
        cuts.close()


@pytest.mark.slow
def test_our_own_client_and_delayed_messages_outlive_leaders(tmp_path):
    """Each delayed message that was acknowledged comes once, whoever's wheel it was on."""
    acked = [{} for _ in range(PARTITIONS)]
    delayed = set()
    is_over = False

    async def send(mq, partition):
        number = 0
        while not is_over:
            with suppress(DduomqError):  # in doubt: it is there or not
                acked[partition][number] = (await mq.send("own", str(number), partition=partition)).offset
            number += 1
            await trio.sleep(PAUSE_S)

    async def delay(mq):
        number = 0
        while not is_over:
            number += 1
            try:
                await mq.send("later", str(number), partition=number % PARTITIONS, delay=0.5 + number % 5)
            except DduomqError:
                continue
            delayed.add(number)
            await trio.sleep(0.02)

    async def story(cluster):
        nonlocal is_over
        async with dduomq.connect(cluster.addresses, delivery_timeout=60.0) as mq, trio.open_nursery() as nursery:
            await mq.admin.create_topic("own", **TOPIC)
            await mq.admin.create_topic("later", **TOPIC)
            for partition in range(PARTITIONS):
                nursery.start_soon(send, mq, partition)
            nursery.start_soon(delay, mq)
            for node_id in cluster.ports:
                await trio.sleep(ROUND_S)
                await trio.to_thread.run_sync(cluster.nodes[node_id].kill)
                await trio.sleep(ROUND_S)
                await trio.to_thread.run_sync(cluster.start, node_id)
            await trio.sleep(ROUND_S)
            is_over = True
        async with dduomq.connect(cluster.addresses) as mq:
            with trio.fail_after(TIMEOUT_S):
                while await mq.admin.count_delayed():  # noqa: ASYNC110  # it is another process
                    await trio.sleep(0.1)
        return await everything(cluster.addresses, "own"), await everything(cluster.addresses, "later")

    with Cluster(tmp_path) as cluster:
        own, later = trio.run(story, cluster)
    check(own, acked)
    counts = Counter(value for numbers in later for _, value in numbers)
    assert len(delayed) > 100
    assert [value for value, count in counts.items() if count > 1] == []
    assert delayed <= set(counts)
