"""Resident memory while gigabytes pass through: it must stay flat."""

from benchmarks.harness import Results, node
from benchmarks.raw import ask, connect, send_to_node
from dduomq.wire import native

BATCH_BYTES = 1024 * 1024 - 4096


def run(results: Results, *, quick: bool) -> None:
    gib = 1 if quick else 5
    options = ("--set", "topic.durability=pagecache", "--set", "topic.retention.bytes=1073741824")
    with node(
        *options, "--set", "topic.segment.bytes=268435456", "--set", "retention.check.interval.ms=1000"
    ) as running:
        with connect(running.address) as sock:
            ask(sock, native.CreateTopic("raw", 1, 1))
        marks = []
        for _ in range(gib * 2):
            send_to_node(running.address, BATCH_BYTES, 2**29 // BATCH_BYTES)
            marks.append(running.memory_mib())
        results.add("memory", f"after the first 512 MiB of {gib} GiB", marks[0], "MiB")
        results.add("memory", f"after {gib} GiB", marks[-1], "MiB", goal="flat", most=round(max(marks)))
