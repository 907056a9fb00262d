"""What a node costs while nothing happens: start-up, memory, descriptors, ten thousand quiet partitions."""

import tempfile
import time
from pathlib import Path

from benchmarks.harness import Results, node, start_node
from benchmarks.raw import ask, connect
from dduomq.wire import native

IDLE_WATCH_S = 10


def run(results: Results, *, quick: bool) -> None:
    _empty(results)
    _partitions(results, 1_000 if quick else 10_000)
    _long_log(results)


def _empty(results: Results) -> None:
    with node() as running:
        results.add("start", "empty directory to ready", running.ready_s, "s", goal="< 0.7")
        results.add("memory", "idle node", running.memory_mib(), "MiB", goal="< 80")


def _partitions(results: Results, count: int) -> None:
    """Create them, stop, start again: the second start is what is measured."""
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-") as scratch:
        first = start_node(scratch)
        before_mib, before_files = first.memory_mib(), first.descriptors()
        with connect(first.address) as sock:
            ask(sock, native.CreateTopic("quiet", count, 1))
        first.stop()
        again = start_node(scratch)
        time.sleep(1)
        results.add("rest", f"start with {count:,} partitions", again.ready_s, "s", goal="< 5 for 10,000")
        grown = (again.memory_mib() - before_mib) * 1024 / count
        results.add("rest", "memory a partition", grown, "KiB", goal="<= 15")
        results.add("rest", "descriptors a partition", (again.descriptors() - before_files) / count, "", goal="<= 3")
        cpu = again.cpu_s()
        time.sleep(IDLE_WATCH_S)
        results.add("rest", "CPU at rest", 100 * (again.cpu_s() - cpu) / IDLE_WATCH_S, "%", goal="< 1")
        again.stop()


def _long_log(results: Results) -> None:
    """100 GiB of clean log: sparse segments with their indexes, which a start must not read."""
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-") as scratch:
        first = start_node(scratch)
        with connect(first.address) as sock:
            ask(sock, native.CreateTopic("long", 1, 1))
        first.stop()
        directory = Path(scratch) / "topics" / "long-0"
        for number in range(100):
            base = number * 1_000_000
            with (directory / f"{base:020d}.log").open("wb") as out:
                out.truncate(2**30)
            (directory / f"{base:020d}.index").touch()
            (directory / f"{base:020d}.timeindex").touch()
        last = 100 * 1_000_000
        for suffix in ("log", "index", "timeindex"):
            (directory / f"{last:020d}.{suffix}").touch()
        _forget_checkpoint(directory, last)
        again = start_node(scratch)
        results.add("start", "100 GiB of clean log (sparse) to ready", again.ready_s, "s", goal="reads nothing")
        again.stop()


def _forget_checkpoint(directory: Path, end: int) -> None:
    """Say that everything before `end` is clean, as a checkpoint of so long a log would."""
    path = directory / "recovery-point"
    if path.exists():
        path.write_text(f"0\n{end}\n")
