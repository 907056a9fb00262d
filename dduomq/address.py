"""Where nodes listen, and where their peers are, as people write it.

Always true: what was parsed can be written back and parsed again.
"""

import attrs

from dduomq.errors import ConfigError

DEFAULT_PORT = 6086
LOOPBACK = ("127.", "localhost", "::1")


@attrs.frozen
class Address:
    """A listener: its name, and where it listens."""

    name: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host.startswith(LOOPBACK)


@attrs.frozen
class PeerAddress:
    """A node of the cluster, and where the others reach it."""

    node_id: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.node_id}@{Address('', self.host, self.port)}"


def parse_address(text: str) -> Address:
    """`[NAME=]HOST:PORT`; an IPv6 host stands in brackets. Raises `ConfigError`."""
    name, _, rest = text.rpartition("=")
    host, colon, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"an address is written HOST:PORT, like 127.0.0.1:{DEFAULT_PORT}, not {text!r}")
    return Address(name or "default", host, int(port))


def parse_addresses(text: str) -> tuple[Address, ...]:
    return tuple(parse_address(item) for item in text.split(",") if item)


def parse_peers(text: str) -> tuple[PeerAddress, ...]:
    """`ID@HOST:PORT,...`, each node once."""
    found: dict[int, PeerAddress] = {}
    for item in filter(None, text.split(",")):
        number, at, place = item.partition("@")
        if not at or not number.isdigit() or int(number) > 2**31 - 1:
            raise ConfigError(f"a peer is written ID@HOST:PORT, like 1@127.0.0.1:{DEFAULT_PORT}, not {item!r}")
        address = parse_address(place)
        if int(number) in found:
            raise ConfigError(f"node {number} stands there twice")
        found[int(number)] = PeerAddress(int(number), address.host, address.port)
    places = {(peer.host, peer.port) for peer in found.values()}
    if len(places) < len(found):
        raise ConfigError("two nodes have one address")
    return tuple(found.values())
