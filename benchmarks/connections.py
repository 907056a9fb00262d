"""The node's CPU for a million one-record requests over a thousand connections, each waiting for its ack."""

import selectors
import time

from benchmarks.harness import Results, node
from benchmarks.raw import _receive_frame, ask, connect
from dduomq.wire import frame, native
from dduomq.wire.records import encode_one

CONNECTIONS = 1_000


def run(results: Results, *, quick: bool) -> None:
    requests = 20_000 if quick else 100_000
    batch = bytes(encode_one(b"x" * 100, timestamp_ms=1))
    with node("--set", "topic.durability=pagecache") as running:
        with connect(running.address) as sock:
            ask(sock, native.CreateTopic("one", 1, 1))
        body = native.Produce(-1, (native.ProducePart("one", 0, len(batch)),))
        request = frame.write(native.request_header(1, 30_000, body), len(batch)) + batch
        idle_mib = running.memory_mib()
        selector = selectors.DefaultSelector()
        sockets = [connect(running.address) for _ in range(CONNECTIONS)]
        held_kib = (running.memory_mib() - idle_mib) * 1024 / CONNECTIONS
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ)
        cpu, begun, done = running.cpu_s(), time.perf_counter(), 0
        for sock in sockets:
            sock.sendall(request)
        while done < requests:
            for key, _ in selector.select(10):
                _receive_frame(key.fileobj)  # type: ignore[arg-type]
                done += 1
                key.fileobj.sendall(request)  # type: ignore[union-attr]
        seconds = time.perf_counter() - begun
        used = (running.cpu_s() - cpu) / done * 1e6
        results.add("connections", "node CPU per million one-record requests", used, "s", goal="low", requests=done)
        results.add("connections", "requests", done / seconds, "1/s")
        results.add("connections", "memory of an idle connection", held_kib, "KiB", goal="< 30")
        for sock in sockets:
            sock.close()
