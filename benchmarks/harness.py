"""What every benchmark shares: a node in a process of its own, clocks, and results as JSON lines.

Always true: client and node are separate processes on loopback; every figure comes with the command that made
it; nothing here passes or fails.
"""

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

READY_TIMEOUT_S = 60
CLAIMED_BYTES = 3 * 1024**3


@attrs.frozen
class NodeProcess:
    """A running node: where it listens, its process, and how long it took to be ready."""

    address: str
    process: subprocess.Popen[bytes]
    data_dir: str
    ready_s: float

    def cpu_s(self) -> float:
        """User and system CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1024 / 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_node(data_dir: str, *options: str) -> NodeProcess:
    """A node on a free port; waits for its `node_ready`."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "dduomq.run", "dduomq.node", "--id", "1", "--data", data_dir]
    command += ["--listen", "127.0.0.1:0", "--log-format", "json", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith(b"{") else {}
        if event.get("event") == "node_ready":
            return NodeProcess(event["listen"][0], process, data_dir, time.perf_counter() - begun)
        if time.perf_counter() - begun > READY_TIMEOUT_S:
            break
    process.kill()
    raise RuntimeError("the node did not become ready")


@contextmanager
def node(*options: str, data_dir: str | None = None) -> Iterator[NodeProcess]:
    """A node for one benchmark, on a directory that goes with it unless given."""
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-", dir=os.environ.get("DDUOMQ_BENCH_DIR")) as scratch:
        running = start_node(data_dir or scratch, *options)
        try:
            yield running
        finally:
            running.stop()


def claim_memory() -> None:
    """Make sure that the machine has the pages which the next run fills.

    A virtual machine gives free memory back to its host within seconds, and pays for it anew by the page: for a GiB
    several times what client and broker cost together, for whoever comes first.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, min(CLAIMED_BYTES, free // 2), flags=flags).close()


class Results:
    """Collects figures; each is printed as a JSON line as soon as it is known."""

    def __init__(self, path: Path | None) -> None:
        self.rows: list[dict[str, object]] = []
        self._path = path

    def add(self, bench: str, figure: str, value: float, unit: str, *, goal: str = "", **detail: object) -> None:
        row = {"bench": bench, "figure": figure, "value": round(value, 4), "unit": unit, "goal": goal, **detail}
        self.rows.append(row)
        line = json.dumps(row)
        print(line, flush=True)
        if self._path is not None:
            with self._path.open("a") as out:
                out.write(line + "\n")

    def table(self) -> str:
        """The figures for people."""
        rows = [(str(r["bench"]), str(r["figure"]), f"{r['value']:,} {r['unit']}", str(r["goal"])) for r in self.rows]
        rows.insert(0, ("benchmark", "figure", "measured", "target"))
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
