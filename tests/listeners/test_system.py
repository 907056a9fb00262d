"""The real sockets: what a connection within one machine is set to."""

import socket

import pytest
import trio

from dduomq.system import TcpNetwork


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="this system knows no other congestion control")
async def test_a_connection_within_one_machine_is_not_paced() -> None:
    network = TcpNetwork()
    listener = await network.listen("127.0.0.1", 0)
    client = await trio.open_tcp_stream("127.0.0.1", listener.port)
    stream = await listener.accept()
    try:
        name = stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert name.rstrip(b"\0") == b"reno"
    finally:
        await stream.aclose()
        await client.aclose()
        await listener.aclose()
