"""`dduomq cluster …`: against a node alone, and against three that it has started itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.shell import Shell, objects
from tests.e2e.processes import Cluster, Node, free_ports

TIMEOUT_S = 90


def test_a_node_alone_is_a_cluster_of_one(shell: Shell) -> None:
    """It is shown like any other; what needs several nodes says what to do."""
    shell("topic", "create", "alone", "-p", 2, "-r", 1)
    found = objects(shell("cluster", "status", "--json"))[0]
    assert (found["controller"], found["offline"], len(found["nodes"])) == (1, [], 1)
    assert "controller" in shell("cluster", "nodes")
    assert "started with --peers" in shell.fails("cluster", "drain", 1, code=1)
    assert "1 node" in shell.fails("topic", "create", "many", "-r", 3, code=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("reassign", "t", 0), "say where to with --to"),
        (("reassign", "t", 0, "--to", "1,2", "--cancel"), "say where to with --to"),
        (("reassign", "t", 0, "--to", "one"), "--to wants numbers of nodes"),
        (("leaders", "--unclean"), "there is nobody here to ask"),
        (("remove", 3), "there is nobody here to ask"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(shell: Shell, args: tuple[object, ...], message: str) -> None:
    """One line that says what is wanted."""
    assert message in shell.fails("cluster", *args)


def test_a_cluster_that_does_not_come_up_says_why(shell: Shell, tmp_path: Path) -> None:
    """The first node that ends tells its reason; the others are stopped."""
    port = int(shell.server.rpartition(":")[2])
    failure = shell.fails("cluster", "start-local", 1, "--data", tmp_path / "c", "--port", port)
    assert "node 1 has ended" in failure
    assert str(port) in failure


class Local:
    """A cluster that `start-local` runs."""

    def __init__(self, data: Path, nodes: int) -> None:
        command = [sys.executable, "-m", "dduomq.cli.app", "cluster", "start-local", str(nodes)]
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        self.process = subprocess.Popen(
            [*command, "--data", str(data), "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(nodes)]
        self.addresses = [line.split()[2].rstrip(",") for line in lines]

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def until(shell: Shell, *args: object, is_so: str) -> list[dict[str, object]]:
    """Ask again until the answer has that word."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        text = shell(*args, "--json")
        if is_so in text:
            return objects(text)
        assert time.monotonic() < deadline, text
        time.sleep(0.2)


@pytest.mark.slow
def test_three_nodes_are_started_looked_at_and_stopped(tmp_path: Path) -> None:
    """Replicas, leaders that move away from a node, a partition that moves; and after a restart all is there."""
    local = Local(tmp_path / "cluster", 3)
    try:
        shell = Shell(local.addresses[2])
        shell("topic", "create", "t", "-p", 3)
        shell("produce", "t", stdin="a\nb\nc\n")
        places = objects(shell("cluster", "partitions", "t", "--json"))
        assert [sorted(place["replicas"]) for place in places] == [[1, 2, 3]] * 3  # type: ignore[call-overload]
        assert "not being moved" in shell.fails("cluster", "reassign", "t", 0, "--cancel", code=1)
        shell("cluster", "reassign", "t", 0, "--to", "3,2")
        until(shell, "cluster", "partitions", "t", is_so='"replicas": [3, 2]')
        assert objects(shell("cluster", "drain", 2, "--wait", "--json"))[0]["leads"] == 0
        assert "draining" in shell("cluster", "nodes")
        shell("cluster", "drain", 2, "--undo")
        assert "no node 9" in shell.fails("cluster", "drain", 9, code=1)
        assert sorted(shell("consume", "t").split()) == ["a", "b", "c"]
    finally:
        assert local.stop() == 0
    logs = [(tmp_path / "cluster" / f"node-{node}.log").read_text() for node in (1, 2, 3)]
    assert all('"clean": true' in log for log in logs)
    again = Local(tmp_path / "cluster", 3)
    try:
        assert sorted(Shell(again.addresses[0])("consume", "t").split()) == ["a", "b", "c"]
    finally:
        assert again.stop() == 0


@pytest.mark.slow
def test_a_node_comes_is_emptied_leaves_for_good_and_comes_again(tmp_path: Path) -> None:
    """As docs/cluster.md says; no list of peers but its own names it."""
    with Cluster(tmp_path) as cluster:
        shell = Shell(cluster.nodes[1].address)
        shell("topic", "create", "t", "-p", 8)
        shell("produce", "t", stdin="a\nb\nc\n")
        (port,) = free_ports(1)
        peers = f"{cluster.peers},4@127.0.0.1:{port}"
        for directory in ("first", "second"):
            limit = "replication.catch.up.bytes.per.second=1000000"
            fourth = Node(tmp_path / directory, "--peers", peers, "--set", limit, port=port, node_id=4)
            try:
                shell("cluster", "balance", "--yes")
                places = objects(shell("cluster", "partitions", "t", "--json"))
                assert sum(4 in place["replicas"] for place in places) >= 4  # type: ignore[operator]
                assert "stop it first" in shell.fails("cluster", "remove", 4, "--yes", code=1)
                shell("cluster", "balance", "--empty", 4, "--yes")
            finally:
                assert fourth.stop() == 0
            until(shell, "cluster", "nodes", is_so='"is_alive": false')
            shell("cluster", "remove", 4, "--yes")
            assert "no node 4" in shell.fails("cluster", "remove", 4, "--yes", code=1)
        assert len(objects(shell("cluster", "nodes", "--json"))) == 3
        assert sorted(shell("consume", "t").split()) == ["a", "b", "c"]
