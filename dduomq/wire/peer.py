"""Requests between the nodes of a cluster: the table of them all, and their headers.

Frames are those of the native protocol, on the same port and behind the same magic; a connection whose first request
is `PeerHello` is a node's. A request's header is `[number, correlation, timeout_ms, body]`, an answer's `[correlation,
code, message, body]`; whatever is bulky travels as the frame's payload. A request without an answer class is one way.

A new kind of request: a pair of frozen classes in a file `peer_*.py` beside this one, with a number of its own in the
`REQUESTS` of that file, and that file in `_FILES` below; its handler goes into the node's `PeerHandlers`
(`dduomq/listeners/peer.py`). Numbers are never used again.

Always true: decoding raises `WireError` or returns a value, nothing else.
"""

from collections.abc import Mapping
from typing import Any

from dduomq.errors import WireError
from dduomq.wire import peer_calls, peer_hello, peer_metadata, peer_replication
from dduomq.wire.plain import from_plain, to_plain

_FILES = (peer_hello, peer_metadata, peer_calls, peer_replication)
FIRST_NUMBER = 100
REQUESTS: Mapping[int, tuple[type, type | None]] = {
    number: pair for file in _FILES for number, pair in file.REQUESTS.items()
}
assert len(REQUESTS) == sum(len(file.REQUESTS) for file in _FILES), "a number of a request is used twice"
NUMBER_OF: Mapping[type, int] = {request: number for number, (request, _) in REQUESTS.items()}
HELLO = NUMBER_OF[peer_hello.PeerHello]


def is_one_way(kind: type) -> bool:
    """Whether such a request is never answered."""
    return REQUESTS[NUMBER_OF[kind]][1] is None


def request_header(correlation: int, timeout_ms: int, body: object) -> list[object]:
    return [NUMBER_OF[type(body)], correlation, timeout_ms, to_plain(body)]


def read_request(header: list[Any]) -> tuple[int, int, object]:
    """(correlation, timeout_ms, body) of a request; raises `WireError`."""
    if len(header) < 4 or not all(type(item) is int for item in header[:3]):
        raise WireError("a request between nodes is [number, correlation, timeout_ms, body]")
    number, correlation, timeout_ms, body = header[:4]
    if number not in REQUESTS:
        raise WireError(f"there is no request {number} between nodes; is the other one newer?")
    return correlation, timeout_ms, from_plain(REQUESTS[number][0], body)


def is_hello(header: list[Any]) -> bool:
    """Whether a connection's first request is a node's."""
    return bool(header) and header[0] == HELLO


def answer_header(correlation: int, body: object) -> list[object]:
    return [correlation, 0, None, to_plain(body)]


def error_header(correlation: int, code: int, message: str) -> list[object]:
    return [correlation, code, message, None]


def read_answer(header: list[Any]) -> tuple[int, int, str, Any]:
    """(correlation, code, message, plain body) of an answer; raises `WireError`."""
    if len(header) < 4 or type(header[0]) is not int or type(header[1]) is not int:
        raise WireError("an answer is [correlation, code, message, body]")
    correlation, code, message, body = header[:4]
    if message is not None and type(message) is not str:
        raise WireError("an answer's message must be text")
    return correlation, code, message or "", body


def read_body(kind: type, plain: Any) -> Any:
    """The body of the answer to a request of this class; raises `WireError`."""
    answer = REQUESTS[NUMBER_OF[kind]][1]
    if answer is None:
        raise WireError(f"{kind.__name__} has no answer")
    return from_plain(answer, plain)
