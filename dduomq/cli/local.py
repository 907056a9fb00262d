"""Several nodes on this machine, each a process of its own, as a cluster.

Always true: when the block is left all of them have ended, one after the other, so that each hands over to those that
still live; a node that takes too long is killed.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from dduomq.errors import ConfigError

HOST = "127.0.0.1"
START_S = 60
STOP_S = 30
POLL_S = 0.05
READY = b'"event": "node_ready"'


class LocalCluster:
    """`addresses`: by number of node. `port` 0: whichever are free."""

    def __init__(self, count: int, data: Path, port: int) -> None:
        ports = _free_ports(count) if port == 0 else range(port, port + count)
        self.addresses = {node_id: f"{HOST}:{each}" for node_id, each in enumerate(ports, 1)}
        self._data = data
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "LocalCluster":
        """Start them all, and wait until all can be reached. Raises `ConfigError` with what went wrong."""
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            for node_id in self.addresses:
                self._processes[node_id] = self._start(node_id)
            deadline = time.monotonic() + START_S
            while not all(map(self._is_ready, self.addresses)):
                self.check()
                if time.monotonic() > deadline:
                    raise ConfigError(f"the nodes were not up within {START_S} s; their logs are in {self._data}")
                time.sleep(POLL_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raises `ConfigError` if a node has ended."""
        for node_id, process in self._processes.items():
            if process.poll() is not None:
                raise ConfigError(f"node {node_id} has ended: {self._last_line(node_id)}")

    def _log(self, node_id: int) -> Path:
        return self._data / f"node-{node_id}.log"

    def _last_line(self, node_id: int) -> str:
        lines = self._log(node_id).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"

    def _is_ready(self, node_id: int) -> bool:
        return READY in self._log(node_id).read_bytes()

    def _start(self, node_id: int) -> "subprocess.Popen[bytes]":
        arguments = ["--id", str(node_id), "--data", str(self._data / f"node-{node_id}")]
        arguments += ["--listen", self.addresses[node_id], "--log-format", "json"]
        if len(self.addresses) > 1:
            arguments += ["--peers", ",".join(f"{each}@{address}" for each, address in self.addresses.items())]
        with self._log(node_id).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dduomq.run", "dduomq.node", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which stops them in order
            )

    def _stop(self) -> None:
        with _uninterrupted():
            for process in reversed(self._processes.values()):
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C leaves no process behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
