"""Requests through httpx that may be cancelled at any moment.

Always true: none of httpx's own generators is left behind unfinished by a request that was cancelled, and no proxy
of the environment is used: the metadata must not take a way that nobody thought of.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import httpx

CONNECT_TIMEOUT_S = 1.0


class _Body(httpx.AsyncByteStream):
    """A request's body, of one part."""

    def __init__(self, data: bytes) -> None:
        self._parts = [data] if data else []

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


def make_request(
    method: str,
    url: str,
    timeout_s: float | None,
    body: Mapping[str, Any] | None = None,
    *,
    params: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> httpx.Request:
    """`body` goes as JSON, `params` into the query. `timeout_s` None: the answer may take for ever."""
    data, kind = b"", ""
    if body is not None:
        data, kind = json.dumps(body).encode(), "application/json"
    elif form is not None:
        data, kind = urlencode(form).encode(), "application/x-www-form-urlencoded"
    where = httpx.URL(url, params=params) if params else httpx.URL(url)
    headers = {"Host": where.netloc.decode("ascii"), "Content-Length": str(len(data))}
    if kind:
        headers["Content-Type"] = kind
    connect = CONNECT_TIMEOUT_S if timeout_s is None else min(timeout_s, CONNECT_TIMEOUT_S)
    timeout = httpx.Timeout(timeout_s, connect=connect).as_dict()
    return httpx.Request(method, where, headers=headers, stream=_Body(data), extensions={"timeout": timeout})


def make_client(connections: int, kept: int) -> httpx.AsyncClient:
    """A client of its own, with so many connections at most, and so many kept while nobody uses them."""
    pool = httpx.Limits(max_connections=connections, max_keepalive_connections=kept)
    return httpx.AsyncClient(limits=pool, trust_env=False)
