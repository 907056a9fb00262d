"""Nodes of a cluster that are started in a wrong way, and strangers at their door: a line says what to do."""

import shutil
import socket
import time
from contextlib import suppress

import pytest
import trio

import dduomq
from dduomq.wire import frame
from tests.e2e.processes import Cluster, Node, free_ports

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        trio.run(_make, running)
        yield running


async def _make(cluster):
    async with dduomq.connect(cluster.addresses) as mq:
        await mq.admin.create_topic("t", partitions=3, replication=3)


@pytest.fixture
def third_is_down(cluster):
    """Its place is free for somebody else; afterwards it is there again."""
    assert cluster.nodes[3].stop() == 0
    yield
    cluster.start(3)


def told(node, text):
    """Wait until the node has said so, while it serves nobody."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not any(text in event.get("reason", event["event"]) for event in node.events):
            assert time.monotonic() < deadline, node.events
            assert node.process.poll() is None, node.events
            time.sleep(0.05)
        assert not node.said("node_ready")
    finally:
        if node.process.poll() is None:
            node.kill()


async def _serves(cluster):
    async with dduomq.connect(cluster.addresses) as mq:
        with trio.fail_after(TIMEOUT_S):
            for partition in range(3):
                await mq.send("t", "x", partition=partition)


def test_a_second_node_with_one_number_is_not_let_in(cluster, tmp_path):
    (port,) = free_ports(1)
    told(
        Node(tmp_path / "second", "--peers", cluster.peers, port=port, node_id=2, wait=False),
        "node 2 is a member with another directory",
    )
    trio.run(_serves, cluster)


def test_an_emptied_directory_is_not_the_member_that_it_was(cluster, tmp_path, third_is_down):
    """It has forgotten the votes that it gave."""
    told(
        Node(tmp_path / "empty", "--peers", cluster.peers, port=cluster.ports[3], node_id=3, wait=False),
        "its data directory was emptied or replaced",
    )
    trio.run(_serves, cluster)


def test_a_node_of_another_cluster_stays_out(cluster, tmp_path, third_is_down):
    with Cluster(tmp_path) as other:
        assert other.nodes[3].stop() == 0
        told(
            Node(tmp_path / "n3", "--peers", cluster.peers, port=cluster.ports[3], node_id=3, wait=False),
            "node 3 belongs to cluster",
        )
        trio.run(_serves, cluster)


def test_a_node_with_another_secret_stays_out(cluster, third_is_down):
    told(
        Node(
            cluster.directory / "n3", "--peers", cluster.peers, "--cluster-secret", "another", port=cluster.ports[3],
            node_id=3, wait=False,
        ),
        "has another --cluster-secret",
    )  # fmt: skip


def test_a_list_of_peers_that_came_later_is_not_believed(cluster, third_is_down):
    """The cluster's log says who is in it; where the others are is learned from those that are reached."""
    few = ",".join(peer for peer in cluster.peers.split(",") if not peer.startswith("2@"))
    node = Node(cluster.directory / "n3", "--peers", few, port=cluster.ports[3], node_id=3)
    (ignored,) = node.said("peers_ignored")
    assert ignored["voters"] == [1, 2, 3]
    assert node.stop() == 0


def test_peers_that_are_mixed_up_are_named(cluster, third_is_down):
    first, second, third = cluster.ports.values()
    mixed = f"1@127.0.0.1:{second},2@127.0.0.1:{first},3@127.0.0.1:{third}"
    node = Node(cluster.directory / "n3", "--peers", mixed, port=third, node_id=3)
    reasons = {event["reason"] for event in node.said("peer_unreachable")}
    assert "node 3 looks for node 2 and finds node 1: mend its --peers" in reasons
    assert node.stop() == 0


def test_a_directory_that_somebody_uses_can_not_be_used_twice(cluster):
    (port,) = free_ports(1)
    node = Node(cluster.directory / "n1", "--peers", cluster.peers, port=port, node_id=1, wait=False)
    code, line = node.ended()
    assert code == 2
    assert "stop it, or give this one another --data" in line


def test_the_number_of_another_node_does_not_fit_its_directory(cluster, third_is_down):
    node = Node(cluster.directory / "n3", "--peers", cluster.peers, port=cluster.ports[3], node_id=2, wait=False)
    code, line = node.ended()
    assert code == 2
    assert "belongs to node 3; start with --id 3" in line


def test_a_node_that_its_peers_do_not_know_does_not_start(cluster, tmp_path):
    node = Node(tmp_path / "fourth", "--peers", cluster.peers, node_id=4, wait=False)
    code, line = node.ended()
    assert code == 2
    assert "--peers names all nodes, this one included" in line


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00" * 64, b"\xff" * 4096, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", frame.MAGIC + b"\xff" * 200],
    ids=["nothing", "zeros", "ones", "http", "magic"],
)
def test_strangers_disturb_nobody(cluster, garbage):
    """A node closes the door, or waits for more, and goes on."""
    for port in cluster.ports.values():
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as stranger:
            stranger.settimeout(TIMEOUT_S)
            with suppress(OSError):  # the node may close the door before all is said
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    continue
    trio.run(_serves, cluster)
    assert all(node.process.poll() is None for node in cluster.nodes.values())


def test_a_cluster_without_a_majority_waits_and_stops_when_it_is_told_to(tmp_path):
    """One of three: it says what it waits for, and SIGTERM ends it in good order."""
    lonely = Cluster(tmp_path)
    node = Node(tmp_path / "n1", "--peers", lonely.peers, port=lonely.ports[1], node_id=1, wait=False)
    deadline = time.monotonic() + TIMEOUT_S
    while not node.said("cluster_waits"):
        assert time.monotonic() < deadline, node.events
        time.sleep(0.05)
    assert "waiting for nodes 2, 3" in node.said("cluster_waits")[0]["reason"]
    assert node.stop() == 0


def test_all_nodes_are_killed_at_once_and_come_back(tmp_path):
    """What was acknowledged is there, and the cluster is the same."""

    async def fill(cluster):
        async with dduomq.connect(cluster.addresses) as mq:
            await mq.admin.create_topic("t", partitions=1, replication=3, config={"min.insync.replicas": "2"})
            for number in range(200):
                await mq.send("t", str(number))

    async def read(cluster):
        async with dduomq.connect(cluster.addresses) as mq:
            with trio.fail_after(TIMEOUT_S):
                await mq.send("t", "end")
            return [record.value for record in await mq.pull("t", offset="earliest", max_records=1_000)]

    with Cluster(tmp_path) as cluster:
        trio.run(fill, cluster)
        before = {node.said("node_ready")[0]["cluster_id"] for node in cluster.nodes.values()}
        for node in cluster.nodes.values():
            node.process.kill()
        for node in cluster.nodes.values():
            node.ended()
        cluster.start()
        assert {node.said("node_ready")[0]["cluster_id"] for node in cluster.nodes.values()} == before
        assert trio.run(read, cluster) == [b"%d" % number for number in range(200)] + [b"end"]


@pytest.mark.slow
def test_a_copy_of_a_running_nodes_directory_is_not_that_node(cluster, tmp_path):
    """Two that share one identity would vote twice."""
    shutil.copytree(cluster.directory / "n1", tmp_path / "copy")
    (port,) = free_ports(1)
    told(
        Node(tmp_path / "copy", "--peers", cluster.peers, port=port, node_id=1, wait=False), "two nodes run with --id 1"
    )
    trio.run(_serves, cluster)


def test_a_members_directory_does_not_run_alone(cluster, third_is_down):
    """Without --peers it would serve what it has as if that were all."""
    node = Node(cluster.directory / "n3", port=cluster.ports[3], node_id=3, wait=False)
    code, line = node.ended()
    assert code == 2
    assert "is that of a node of a cluster; start it with its --peers" in line


def test_a_node_that_ran_alone_is_not_made_a_member_by_accident(cluster, tmp_path, third_is_down):
    """Nobody would know of its topics any more."""
    assert Node(tmp_path / "alone", node_id=3).stop() == 0
    node = Node(tmp_path / "alone", "--peers", cluster.peers, port=cluster.ports[3], node_id=3, wait=False)
    code, line = node.ended()
    assert code == 2
    assert "is that of a node that ran alone" in line
