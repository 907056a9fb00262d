"""etcd's JSON gateway: calls with a deadline, fail-over between its members, its errors as ours.

Always true: every call ends by its deadline. A write is sent once: where its answer is lost it is
`MetadataUnknown`, `MetadataUnavailable` only if it was surely not applied. Reads go to the next member.

What JSON makes of etcd's messages: 64-bit numbers are strings, keys and values base64, and what is zero, false
or empty is left out.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from dduomq import limits
from dduomq.cluster.ports import MetadataUnavailable, MetadataUnknown, SessionLost
from dduomq.errors import DduomqError, UsageError
from dduomq.stores.http import CONNECT_TIMEOUT_S, make_client, make_request

CALL_TIMEOUT_S = limits.METADATA_CALL_TIMEOUT_MS / 1000
PROBE_TIMEOUT_S = 2.0
CONNECTIONS_MAX = 64  # of calls
WATCHES_MAX = 256
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_INVALID_ARGUMENT, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNAUTHENTICATED = 3, 7, 8, 16
_REFUSALS = {_PERMISSION_DENIED, _RESOURCE_EXHAUSTED, _UNAUTHENTICATED}


def to_text(data: bytes) -> str:
    """Bytes as etcd's JSON has them."""
    return b64encode(data).decode("ascii")


def to_bytes(text: str) -> bytes:
    return b64decode(text)


class Gateway:
    """Calls to one cluster, made to the member that answered last."""

    def __init__(self, endpoints: Sequence[str], calls: httpx.AsyncClient, watches: httpx.AsyncClient) -> None:
        self.endpoints = tuple(endpoints)
        self._calls = calls
        self._watches = watches
        self._at = 0

    @property
    def current(self) -> str:
        return self.endpoints[self._at]

    def leave(self, endpoint: str) -> None:
        """The next member's turn, if nobody else has gone on already."""
        if self.current == endpoint:
            self._at = (self._at + 1) % len(self.endpoints)

    async def _post(self, url: str, body: Mapping[str, Any], timeout_s: float) -> httpx.Response:
        return await self._calls.send(make_request("POST", url, timeout_s, body))

    async def read(self, path: str, body: Mapping[str, Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """A call that may be made twice; from any member that answers. Raises `MetadataUnavailable`."""
        share_s = max(timeout_s / len(self.endpoints), min(timeout_s, CONNECT_TIMEOUT_S))
        fault = "no answer"
        with trio.move_on_after(timeout_s):
            for _ in self.endpoints:
                endpoint = self.current
                try:
                    response = await self._post(endpoint + path, body, share_s)
                    if response.status_code == httpx.codes.OK:
                        return response.json()
                    error = _error(response, is_write=False)
                    if not isinstance(error, MetadataUnavailable) or isinstance(error, SessionLost):
                        raise error
                    fault = error.message
                except (httpx.TransportError, json.JSONDecodeError) as error:
                    fault = f"{type(error).__name__} {error}".strip()
                self.leave(endpoint)
        raise MetadataUnavailable(f"etcd can't be reached at {', '.join(self.endpoints)}: {fault}")

    async def write(self, path: str, body: Mapping[str, Any]) -> Any:
        """A call that is made once. Raises `MetadataUnavailable` (not applied) or `MetadataUnknown`."""
        endpoint, fault = self.current, "no answer"
        with trio.move_on_after(CALL_TIMEOUT_S) as scope:
            for _ in self.endpoints:
                endpoint = self.current
                try:
                    response = await self._post(endpoint + path, body, CALL_TIMEOUT_S)
                    if response.status_code == httpx.codes.OK:
                        return response.json()
                    error = _error(response, is_write=True)
                    if isinstance(error, MetadataUnavailable | MetadataUnknown):
                        self.leave(endpoint)
                    raise error
                except _NOT_SENT as error:
                    fault = f"{type(error).__name__} {error}".strip()
                    self.leave(endpoint)
                except (httpx.TransportError, json.JSONDecodeError) as error:
                    self.leave(endpoint)
                    raise MetadataUnknown(
                        f"etcd's answer was lost ({type(error).__name__}); read again to see what holds"
                    ) from None
        if scope.cancelled_caught:
            self.leave(endpoint)
            raise MetadataUnknown(f"etcd did not answer within {CALL_TIMEOUT_S:g} s; read again to see what holds")
        raise MetadataUnavailable(f"etcd can't be reached at {', '.join(self.endpoints)}: {fault}")

    async def version(self, endpoint: str) -> str:
        """A member's release, like 3.5.9. Raises `MetadataUnavailable`."""
        try:
            response = await self._calls.send(make_request("GET", f"{endpoint}/version", CONNECT_TIMEOUT_S))
            return str(response.json()["etcdserver"])
        except (httpx.TransportError, ValueError, KeyError, TypeError) as error:
            raise MetadataUnavailable(f"{endpoint} does not answer as etcd does: {error}") from None

    async def answers(self, endpoint: str) -> bool:
        """Whether this member has a quorum and answers, in a moment."""
        body = {"key": to_text(b"/dduomq"), "count_only": True}
        try:
            response = await self._post(f"{endpoint}/v3/kv/range", body, PROBE_TIMEOUT_S)
        except httpx.TransportError:
            return False
        return response.status_code == httpx.codes.OK

    @asynccontextmanager
    async def stream(self, endpoint: str, path: str, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Any]]:
        """The answers that come one after another, each a line. Raises `MetadataUnavailable`, also while they come.

        Leave it by cancellation, so that none of httpx's generators is left behind unfinished.
        """
        try:
            response = await self._watches.send(make_request("POST", endpoint + path, None, body), stream=True)
            try:
                if response.status_code != httpx.codes.OK:
                    raise MetadataUnavailable(f"etcd answers {response.status_code} at {endpoint}{path}")
                yield (json.loads(line) async for line in response.aiter_lines())
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.StreamError, json.JSONDecodeError) as error:
            raise MetadataUnavailable(f"etcd's watch ended: {type(error).__name__} {error}") from None


@asynccontextmanager
async def open_gateway(endpoints: Sequence[str]) -> AsyncIterator[Gateway]:
    """Watches have connections of their own, so that they never keep calls waiting."""
    async with make_client(CONNECTIONS_MAX, CONNECTIONS_MAX) as calls, make_client(WATCHES_MAX, 0) as watches:
        yield Gateway(endpoints, calls, watches)


def _error(response: httpx.Response, *, is_write: bool) -> DduomqError:
    """What a refused call means. Where nothing says that a write was not applied, it may have been."""
    try:
        plain = response.json()
        code, text = plain.get("code", 0), str(plain.get("message") or plain.get("error"))
    except (ValueError, AttributeError):
        text = f"{response.url} answers {response.status_code}: is that etcd?"
        may_be_done = is_write and response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
        return MetadataUnknown(text) if may_be_done else MetadataUnavailable(text)
    if "lease not found" in text:
        return SessionLost("etcd has ended this node's session")
    if code == _INVALID_ARGUMENT:
        return UsageError(text)
    if code in _REFUSALS or text == "etcdserver: no leader" or not is_write:
        return MetadataUnavailable(text)
    return MetadataUnknown(f"{text}; read again to see what holds")
