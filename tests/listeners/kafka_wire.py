"""A Kafka client of few words, for stories on the simulated network: one request, one answer, by our own tables."""

import trio

from dduomq.wire.kafka.api import API_VERSIONS
from dduomq.wire.kafka.primitives import Reader, Writer
from dduomq.wire.kafka.registry import APIS

KEYS = {api.name: api for api in APIS.values()}


class KafkaWire:
    """One connection. `ask("Metadata", version=9, topics=None)` gives the answer's body."""

    def __init__(self, stream, client="test"):
        self._stream = stream
        self._client = client
        self._correlation = 0

    async def ask(self, name, version=None, **body):
        await self.send(name, version, **body)
        return await self.receive(name, version)

    async def send(self, name, version=None, **body):
        api = KEYS[name]
        version = api.last if version is None else version
        self._correlation += 1
        out = Writer()
        out.int16(api.key)
        out.int16(version)
        out.int32(self._correlation)
        out.int16(len(self._client))
        out.out += self._client.encode()
        if api.is_flexible(version):
            out.uvarint(0)
        api.request.write(out, body, version)
        await self._stream.send_all([len(out.out).to_bytes(4, "big") + bytes(out.out)])

    async def receive(self, name, version=None):
        api = KEYS[name]
        version = api.last if version is None else version
        length = int.from_bytes(await self._exactly(4), "big")
        source = Reader(memoryview(bytearray(await self._exactly(length))))
        self.answered = source.int32()
        if api.is_flexible(version) and api.key != API_VERSIONS:
            assert source.uvarint() == 0
        body = api.response.read(source, version)
        assert source.position == source.end
        return body

    async def _exactly(self, size):
        data = bytearray(size)
        filled = 0
        while filled < size:
            received = await self._stream.receive_into(memoryview(data)[filled:])
            if not received:
                raise trio.BrokenResourceError("the node has closed the connection")
            filled += received
        return bytes(data)

    async def aclose(self):
        await self._stream.aclose()
