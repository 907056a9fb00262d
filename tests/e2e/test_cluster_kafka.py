"""What Kafka's own clients do with several nodes: moves, elections, groups, delays and share groups."""

import time
from contextlib import closing

import pytest
import trio
from confluent_kafka import AcknowledgeType, Consumer, ElectionType, Producer, ShareConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka import KafkaAdminClient
from kafka import TopicPartition as Place

import dduomq
from tests.e2e.processes import Cluster

TIMEOUT_S = 60
GROUPS = 12
RECORDS = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("nodes")) as running:
        yield running


def until(look):
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it has not come to pass")


def make(cluster, topic, partitions=6, replication=3):
    admin = AdminClient({"bootstrap.servers": cluster.addresses})
    admin.create_topics([NewTopic(topic, partitions, replication)])[topic].result(TIMEOUT_S)
    return admin


def send(cluster, topic, values, headers=None, partitions=6):
    failures = []
    producer = Producer({"bootstrap.servers": cluster.addresses, "acks": "all", "enable.idempotence": True})
    for at, value in enumerate(values):
        producer.produce(
            topic, value, partition=at % partitions, headers=headers,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush(TIMEOUT_S) == 0
    assert not failures


def places(cluster, topic):
    async def look():
        async with dduomq.connect(cluster.addresses) as mq:
            return {one.partition: one for one in await mq.admin.partition_places([topic])}

    return trio.run(look)


def test_a_partition_is_moved_and_its_preferred_leader_elected(cluster):
    make(cluster, "moved")
    send(cluster, "moved", [str(n) for n in range(60)])
    with closing(KafkaAdminClient(bootstrap_servers=cluster.addresses)) as admin:
        admin.alter_partition_reassignments({Place("moved", 0): [3, 1], Place("moved", 1): [2]})
        moved = until(
            lambda: (found := places(cluster, "moved"))[0].replicas == (3, 1) and found[1].replicas == (2,) and found
        )
        assert set(moved[0].isr) == {3, 1}
        assert moved[1].isr == (2,)
        assert not admin.list_partition_reassignments()
    admin = AdminClient({"bootstrap.servers": cluster.addresses})
    asked = TopicPartition("moved", 0)
    result = admin.elect_leaders(ElectionType.PREFERRED, [asked]).result(TIMEOUT_S)
    error = next(iter(result.values()))
    assert error is None or error.name() == "ELECTION_NOT_NEEDED"
    assert places(cluster, "moved")[0].leader == 3
    consumer = Consumer({"bootstrap.servers": cluster.addresses, "group.id": "x", "enable.auto.commit": False})
    with closing(consumer):
        consumer.assign([TopicPartition("moved", at, 0) for at in range(6)])
        found = []
        until(lambda: found.extend(m.value() for m in consumer.consume(100, 0.5) if not m.error()) or len(found) >= 60)
    assert sorted(map(int, found)) == list(range(60))


def test_groups_are_found_wherever_they_are_coordinated(cluster):
    """Twelve groups have coordinators on all nodes; each goes on where it was."""
    admin = make(cluster, "shared")
    send(cluster, "shared", [str(n) for n in range(RECORDS)])
    for at in range(GROUPS):
        for want in (RECORDS // 2, RECORDS - RECORDS // 2):
            consumer = Consumer({
                "bootstrap.servers": cluster.addresses, "group.id": f"g{at}", "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "group.protocol": "consumer" if at % 2 else "classic",
            })  # fmt: skip
            with closing(consumer):
                consumer.subscribe(["shared"])
                count = 0
                deadline = time.monotonic() + TIMEOUT_S
                while count < want and time.monotonic() < deadline:
                    count += sum(not m.error() for m in consumer.consume(want - count, 0.5))
                assert count == want
                consumer.commit(asynchronous=False)
    listed = {group.group_id for group in admin.list_consumer_groups().result(TIMEOUT_S).valid}
    assert {f"g{at}" for at in range(GROUPS)} <= listed


def test_a_delayed_record_comes_wherever_its_wheel_is(cluster):
    """To six partitions, whose wheels and leaders are on different nodes."""
    make(cluster, "later")
    send(cluster, "later", [str(n) for n in range(30)], headers=[("dduomq-delay", b"1500ms")])
    consumer = Consumer({"bootstrap.servers": cluster.addresses, "group.id": "x", "enable.auto.commit": False})
    with closing(consumer):
        consumer.assign([TopicPartition("later", at, 0) for at in range(6)])
        found = []
        until(lambda: found.extend(m.value() for m in consumer.consume(100, 0.5) if not m.error()) or len(found) >= 30)
        found += [m.value() for m in consumer.consume(100, 1.0) if not m.error()]
    assert sorted(map(int, found)) == list(range(30))


def test_a_share_group_works_on_partitions_of_all_nodes(cluster):
    """Its records are read at their leaders, and its locks kept by one coordinator elsewhere."""
    make(cluster, "queued")
    consumer = ShareConsumer({
        "bootstrap.servers": cluster.addresses, "group.id": "q", "share.acknowledgement.mode": "explicit",
    })  # fmt: skip
    with closing(consumer):
        consumer.subscribe(["queued"])
        consumer.poll(timeout=2.0)  # it begins with what comes after it has joined
        send(cluster, "queued", [str(n) for n in range(60)])
        done = []

        def work():
            for message in consumer.poll(timeout=1.0) or []:
                assert not message.error()
                done.append(int(message.value()))
                consumer.acknowledge(message, AcknowledgeType.ACCEPT)
            consumer.commit_sync()
            return len(set(done)) >= 60

        until(work)
    assert sorted(set(done)) == list(range(60))
