"""A disk and a network in virtual time, for tests that tell a story of nodes and clients step by step."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import trio

from dduomq.client.client import Client, connect
from dduomq.config import from_values
from dduomq.node import Node, build
from dduomq.ports import Ports
from dduomq.testing.clock import SimClock
from dduomq.testing.disk import Platter, SimDisk
from dduomq.testing.network import SimNetwork


class Machine:
    """A disk and a network on which nodes live, one after another."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.clock = SimClock()
        self.platter = Platter(Random(1))
        self.network = SimNetwork(Random(2))
        self._lives = 0

    @asynccontextmanager
    async def node(self, log: Any = None) -> AsyncIterator[Node]:
        config = from_values({"data": "data", "listen": "sim:6086", "plaintext.allowed": "true"})
        disk = SimDisk(self.nursery, self.platter, Random(3))
        self._lives += 1  # no life gives out the ids of another
        async with build(
            Ports(self.clock, self.network, disk, Random(3 + self._lives), self.platter.files), config, log=log
        ) as node:
            yield node

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with connect(
            "sim:6086", dial=self.network.dial_client, rng=Random(5), wall_ms=self.clock.wall_ms, delivery_timeout=5.0
        ) as mq:
            yield mq

    async def send(self, values: range) -> None:
        async with self.client() as mq:
            for n in values:
                assert (await mq.send("t", str(n))).offset == n

    async def values(self) -> list[int]:
        async with self.client() as mq:
            return [int(record.value) for record in await mq.pull("t", offset="earliest")]
