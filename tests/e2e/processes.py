"""Real node processes for tests: started on a free port, alone or as a cluster, stopped by pid."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

STOP_TIMEOUT_S = 60
READY_TIMEOUT_S = 60


class Node:
    """A node process. `address` is where it listens."""

    def __init__(self, data_dir, *options, port=0, node_id=1, wait=True):
        command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--id", str(node_id), "--data", str(data_dir)]
        command += ["--listen", f"127.0.0.1:{port}", "--log-format", "json", *options]
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        self.node_id = node_id
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.events = []
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if wait:
            self.wait_ready()

    def _read(self):
        """To the end, so that the node never waits for its log to be read."""
        for line in self.process.stderr:
            event = json.loads(line) if line.startswith("{") else {"event": line.strip()}
            self.events.append(event)
            if event["event"] == "node_ready":
                self.address = event["listen"][0]
                self.port = int(self.address.rpartition(":")[2])
                self._is_ready.set()
        self._is_ready.set()

    def wait_ready(self, timeout_s=READY_TIMEOUT_S):
        """Until it serves. Raises `AssertionError` with all that it has said."""
        has_ended = self._is_ready.wait(timeout_s)
        if not has_ended or not hasattr(self, "address"):
            raise AssertionError(f"the node did not start: {self.events} exit {self.process.poll()}")

    def said(self, event):
        """Everything it has logged under this name."""
        return [one for one in self.events if one["event"] == event]

    def ended(self):
        """Wait for its own end: the exit code, and the last line it has said."""
        code = self.process.wait(STOP_TIMEOUT_S)
        self._reader.join(STOP_TIMEOUT_S)
        self.process.stderr.close()
        return code, self.events[-1]["event"] if self.events else ""

    def kill(self):
        """SIGKILL: as if the machine's power went, but for the page cache."""
        self.process.kill()
        self.ended()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()[0]

    def freeze(self):
        """SIGSTOP: it lives, and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running(data_dir, *options, port=0):
    node = Node(data_dir, *options, port=port)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.stop()


def free_ports(count):
    """Ports of this machine that nobody listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Several nodes on this machine. `dialled`: at which port the others reach each node, if not at its own."""

    def __init__(self, directory, *options, count=3, dial_through=None):
        self.directory = directory
        self._options = options
        self.ports = dict(zip(range(1, count + 1), free_ports(count), strict=True))
        dialled = self.ports if dial_through is None else dial_through(self.ports)
        self.peers = ",".join(f"{node_id}@127.0.0.1:{port}" for node_id, port in dialled.items())
        self.nodes = {}

    @property
    def addresses(self):
        """Of all nodes, for clients."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports.values())

    def start(self, *node_ids):
        """These nodes, or all; returns when they serve."""
        begun = node_ids or tuple(self.ports)
        for node_id in begun:
            self.nodes[node_id] = Node(
                self.directory / f"n{node_id}", "--peers", self.peers, *self._options, port=self.ports[node_id],
                node_id=node_id, wait=False,
            )  # fmt: skip
        for node_id in begun:
            self.nodes[node_id].wait_ready()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.thaw()
                node.kill()
