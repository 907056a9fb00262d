"""Prebuilt batches straight into the socket, against a bare trio loop from socket to file: the broker's share.

The same sender, in a process of its own, feeds both: the native protocol's frames to the node, the same bytes
to a loop that receives into one buffer and writes it to a file.
"""

import multiprocessing
import os
import socket
import tempfile
import time

import trio

from benchmarks.harness import NodeProcess, Results, node
from dduomq.wire import frame, native
from dduomq.wire.batch import build

WINDOW = 16
BUFFER_BYTES = 1024 * 1024


def _greet(sock: socket.socket) -> None:
    sock.sendall(frame.MAGIC + frame.write(native.request_header(0, 30_000, native.Hello(1, "bench"))))
    _receive_frame(sock)


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionError("the node closed the connection")
        data += piece
    return data


def _receive_frame(sock: socket.socket) -> list[object]:
    header_length, payload_length = frame.read_prefix(_receive_exactly(sock, 8), 1 << 30)
    header = frame.read_header(_receive_exactly(sock, header_length))
    _receive_exactly(sock, payload_length)
    return header


def ask(sock: socket.socket, body: object) -> list[object]:
    """One request and its answer's header, on a greeted socket."""
    sock.sendall(frame.write(native.request_header(1, 30_000, body)))
    header = _receive_frame(sock)
    if header[1]:
        raise RuntimeError(str(header[2]))
    return header


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _greet(sock)
    return sock


def _prepared(batch_bytes: int) -> bytes:
    batch = build(b"x" * (batch_bytes - 61), count=1, last_offset_delta=0, base_timestamp=0, max_timestamp=0)
    return bytes(batch)


def send_to_node(address: str, batch_bytes: int, batches: int) -> float:
    """Seconds to send and have acknowledged `batches`, up to WINDOW in flight."""
    batch = _prepared(batch_bytes)
    body = native.Produce(-1, (native.ProducePart("raw", 0, len(batch)),))
    request = frame.write(native.request_header(1, 30_000, body), len(batch)) + batch
    with connect(address) as sock:
        begun = time.perf_counter()
        in_flight = 0
        for _ in range(batches):
            sock.sendall(request)
            in_flight += 1
            if in_flight == WINDOW:
                _receive_frame(sock)
                in_flight -= 1
        for _ in range(in_flight):
            _receive_frame(sock)
        return time.perf_counter() - begun


def send_to_loop(port: int, batch_bytes: int, batches: int) -> float:
    """Seconds to send the same bytes to the bare loop and hear that it has them."""
    batch = _prepared(batch_bytes)
    with socket.create_connection(("127.0.0.1", port)) as sock:
        begun = time.perf_counter()
        for _ in range(batches):
            sock.sendall(batch)
        sock.shutdown(socket.SHUT_WR)
        _receive_exactly(sock, 1)
        return time.perf_counter() - begun


async def _bare_loop(ready: "multiprocessing.connection.Connection", path: str) -> None:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen()
    ready.send(listener.getsockname()[1])
    sock, _ = await listener.accept()
    view = memoryview(bytearray(BUFFER_BYTES))
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    position = 0
    while received := await sock.recv_into(view):
        position += os.pwrite(descriptor, view[:received], position)
    await sock.send(b"!")
    os.close(descriptor)


def _bare_process(ready: "multiprocessing.connection.Connection", path: str) -> None:
    trio.run(_bare_loop, ready, path)


def bare(batch_bytes: int, batches: int) -> float:
    """Bytes per second of the bare loop."""
    mine, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory(prefix="dduomq-bench-") as scratch:
        process = multiprocessing.get_context("spawn").Process(target=_bare_process, args=(theirs, f"{scratch}/file"))
        process.start()
        seconds = send_to_loop(mine.recv(), batch_bytes, batches)
        process.join()
    return batch_bytes * batches / seconds


def through(running: NodeProcess, batch_bytes: int, batches: int) -> float:
    return batch_bytes * batches / send_to_node(running.address, batch_bytes, batches)


def run(results: Results, *, quick: bool) -> None:
    """MiB/s of both, in turn, and the node's share of the bare loop's."""
    total = (256 if quick else 2048) * 1024 * 1024
    for batch_bytes in (64 * 1024, 256 * 1024, 1024 * 1024 - 4096):
        shares = []
        with node("--set", "topic.durability=pagecache", "--set", "topic.max.message.bytes=8000000") as running:
            with connect(running.address) as sock:
                ask(sock, native.CreateTopic("raw", 1, 1))
            for _ in range(3):
                ours = through(running, batch_bytes, total // batch_bytes)
                loop = bare(batch_bytes, total // batch_bytes)
                shares.append((ours / loop, ours, loop))
            cpu = running.cpu_s() / (3 * total / 2**30)
        share, ours, loop = sorted(shares)[1]
        detail = {"batch_bytes": batch_bytes, "MiB_s": round(ours / 2**20), "bare_MiB_s": round(loop / 2**20)}
        results.add("raw path", f"share of a bare loop, {batch_bytes // 1024} KiB", share, "", goal=">= 0.5", **detail)
        results.add("raw path", f"node CPU per GiB, {batch_bytes // 1024} KiB", cpu, "s")
