"""The way between the nodes of a cluster on one machine, which can be cut: each is reached through a relay.

Always true: what was sent over a cut way is held back, and goes on when it is mended; nobody is told of the cut. Which
node a connection comes from is read off the kernel's table of sockets.
"""

import os
import select
import socket
import threading
from pathlib import Path

CHUNK = 64 * 1024
LOOK_S = 0.02


class Cuts:
    """`through(ports)` puts a relay before each node. Clients go to the nodes themselves."""

    def __init__(self):
        self.nodes = {}  # by number, as in `Cluster.nodes`
        self._cut = set()
        self._is_over = False
        self._listeners = []

    def through(self, ports):
        """By node, the port of its relay."""
        relays = {}
        for node_id, port in ports.items():
            listener = socket.create_server(("127.0.0.1", 0))
            self._listeners.append(listener)
            relays[node_id] = listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(listener, node_id, port), daemon=True).start()
        return relays

    def isolate(self, node_id):
        """Nothing comes from it to the others, and nothing from them to it."""
        for other in self.nodes:
            self._cut |= {(node_id, other), (other, node_id)}

    def cut(self, source, target):
        """Nothing comes from the one to the other."""
        self._cut.add((source, target))

    def mend(self):
        self._cut.clear()

    def close(self):
        self._is_over = True
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener, target, port):
        while not self._is_over:
            try:
                incoming, (_, from_port) = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(incoming, from_port, target, port), daemon=True).start()

    def _relay(self, incoming, from_port, target, port):
        source = self._source(from_port)
        try:
            with incoming, socket.create_connection(("127.0.0.1", port)) as outgoing:
                there = threading.Thread(
                    target=self._pump, args=(incoming, outgoing, (source, target)), daemon=True
                )  # fmt: skip
                there.start()
                self._pump(outgoing, incoming, (target, source))
                there.join()
        except OSError:
            return

    def _pump(self, source, target, way):
        try:
            while not self._is_over:
                if way in self._cut:
                    select.select([], [], [], LOOK_S)
                    continue
                if select.select([source], [], [], LOOK_S)[0]:
                    data = source.recv(CHUNK)
                    if not data:
                        break
                    target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _source(self, port):
        """The node whose socket has this port; 0 if it is none of them."""
        inode = None
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                inode = fields[9]
        for node_id, node in self.nodes.items():
            folder = f"/proc/{node.process.pid}/fd"
            for name in os.listdir(folder) if Path(folder).exists() else ():
                try:
                    if os.readlink(f"{folder}/{name}") == f"socket:[{inode}]":
                        return node_id
                except OSError:
                    continue
        return 0
