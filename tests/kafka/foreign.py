"""One connection by hand: any request of any version, in kafka-python's own encoding, over a plain socket."""

import contextlib
import socket

from kafka.protocol import admin, consumer, metadata, producer
from kafka.record.memory_records import MemoryRecordsBuilder

TIMEOUT_S = 30
PACKAGES = (admin, consumer, metadata, producer)


def message_class(name):
    """kafka-python's class of a message: `FetchRequest`."""
    return next(getattr(package, name) for package in PACKAGES if hasattr(package, name))


def filled(kind, body):
    """A message or a structure in it, from a dict."""
    values = dict(body)
    for name, field in kind.fields.items():
        if values.get(name) is None:
            continue
        if field.is_struct_array():
            values[name] = [filled(field.data_class, item) for item in values[name]]
        elif field.is_struct():
            values[name] = filled(field.data_class, values[name])
    return kind(**values)


def batch(*values, timestamp=None, producer_id=-1, producer_epoch=-1, base_sequence=-1):
    """One record batch."""
    builder = MemoryRecordsBuilder(
        2, 0, 1_000_000, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=base_sequence
    )
    for value in values:
        builder.append(timestamp=timestamp, key=None, value=value, headers=[])
    builder.close()
    return bytes(builder.buffer())


class Foreign:
    """A connection. `ask("Metadata", 9, topics=None)` gives the answer as a dict."""

    def __init__(self, node, port=None):
        self.socket = socket.create_connection(("127.0.0.1", port or node.port), TIMEOUT_S)
        self._correlation = 0

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.socket.close()

    def ask(self, name, version, **body):
        correlation = self.send(name, version, **body)
        answered, answer = self.receive(name, version)
        assert answered == correlation
        return answer

    def send(self, name, version, **body):
        """Its correlation id."""
        frame, correlation = self.encoded(name, version, **body)
        self.socket.sendall(frame)
        return correlation

    def encoded(self, name, version, **body):
        """(the frame, its correlation id)"""
        self._correlation += 1
        request = filled(message_class(f"{name}Request"), body)
        request.API_VERSION = version
        request.with_header(self._correlation, "foreign")
        return bytes(request.encode(header=True, framed=True)), self._correlation

    def receive(self, name, version):
        """(correlation id, answer) of the next answer."""
        payload = self.frame()
        answer = message_class(f"{name}Response").decode(payload, version=version, header=True)
        return int.from_bytes(payload[:4], "big"), answer.to_dict(json=False)

    def frame(self):
        """The next answer's bytes."""
        return self._exactly(int.from_bytes(self._exactly(4), "big"))

    def _exactly(self, size):
        data = bytearray()
        while len(data) < size:
            received = self.socket.recv(size - len(data))
            assert received, "the node has closed the connection"
            data += received
        return bytes(data)

    def is_closed(self):
        """Waits until the node has closed the connection; nothing may come before."""
        with contextlib.suppress(ConnectionResetError):
            return self.socket.recv(1) == b""
        return True
