"""Nodes in Nacos, through the HTTP that its clients use: v3 of Nacos 3, v1 of Nacos 1 and 2.

Always true: Nacos only tells where nodes are. Its lists may be late and differ from server to server, so no state of
the cluster is ever kept there. While it is out of reach the last list holds.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio

from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.image import NodeRecord, encode_node
from dduomq.cluster.ports import MetadataUnavailable
from dduomq.ports import Rng
from dduomq.stores.http import make_client, make_request
from dduomq.stores.registry import News, read_nodes

CALL_TIMEOUT_S = 3.0
LEAVE_TIMEOUT_S = 2.0
BEAT_S = 2.0
POLL_S = 2.0
CONNECTIONS_MAX = 8
RECORD = "dduomq.node"  # the metadata that have a node's whole record
TIMES = {
    "preserved.heart.beat.interval": "2000",
    "preserved.heart.beat.timeout": "6000",
    "preserved.ip.delete.timeout": "10000",
}
NOT_REGISTERED = {20404, 21003}  # v1, v3
DENIED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}


@attrs.frozen
class Service:
    """Under which name the nodes stand, and who may write it."""

    name: str
    namespace: str = "public"
    group: str = "DEFAULT_GROUP"
    user: str = ""
    password: str = attrs.field(default="", repr=False)


@attrs.frozen
class _Api:
    """The paths of one version. `is_grouped`: the group stands in the service's name."""

    instances: str
    login: str
    is_grouped: bool


APIS = {
    "v3": _Api("/nacos/v3/client/ns/instance", "/nacos/v3/auth/user/login", False),
    "v1": _Api("/nacos/v1/ns/instance", "/nacos/v1/auth/login", True),
}


class NacosRegistry:
    """A `Registry` in Nacos; see `open_nacos`."""

    def __init__(self, places: Sequence[str], service: Service, api: str, client: httpx.AsyncClient, rng: Rng) -> None:
        self._places = list(places)
        self._service = service
        self._api = APIS.get(api)
        self._client = client
        self._rng = rng
        self._token = ""
        self._last: list[NodeRecord] = []

    # --- the registry -------------------------------------------------------------------------------

    @asynccontextmanager
    async def register(self, me: NodeRecord) -> AsyncIterator[None]:
        """See `Registry.register`."""
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._keep, me)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
                    await self._try("DELETE", "", self._instance(me))

    async def nodes(self) -> list[NodeRecord]:
        answer = await self._try("GET", "/list", {"healthyOnly": "true"})
        hosts = _hosts(answer)
        if hosts is not None:
            self._last = read_nodes(_record(host) for host in hosts)
        return list(self._last)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[list[NodeRecord]]]:
        """See `Registry.watch`. Nacos is asked again and again."""
        news = News()
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._poll, news)
            yield news
            nursery.cancel_scope.cancel()

    async def _poll(self, news: News) -> None:
        while True:
            news.put(await self.nodes())
            await trio.sleep(POLL_S * self._rng.uniform(0.8, 1.2))

    async def _keep(self, me: NodeRecord) -> None:
        """Beat; register where Nacos does not know this node, at first and whenever it has forgotten it."""
        is_known = False
        while True:
            if not is_known:
                is_known = await self._try("POST", "", self._instance(me)) is not None
            else:
                answer = await self._beat(me)
                is_known = not isinstance(answer, dict) or answer.get("code") not in NOT_REGISTERED
                if not is_known:
                    continue
            await trio.sleep(BEAT_S * self._rng.uniform(0.8, 1.2))

    async def _beat(self, me: NodeRecord) -> Any:
        if self._api is APIS["v1"]:
            return await self._try("PUT", "/beat", self._instance(me))
        return await self._try("POST", "", self._instance(me) | {"heartBeat": "true"})

    def _instance(self, me: NodeRecord) -> dict[str, str]:
        address = me.addresses[0]
        record = {RECORD: b64encode(encode_node(me)).decode("ascii"), "id": str(me.node_id), **TIMES}
        return {
            "ip": address.host,
            "port": str(address.port),
            "clusterName": "DEFAULT",
            "ephemeral": "true",
            "metadata": json.dumps(record, separators=(",", ":")),
        }

    # --- calls --------------------------------------------------------------------------------------

    async def _try(self, method: str, path: str, params: dict[str, str]) -> Any:
        """The answer of the first server that gives one, or None."""
        for place in list(self._places):
            try:
                return await self._ask(place, method, path, params)
            except MetadataUnavailable:
                if self._places[0] == place:  # the next one's turn
                    self._places.append(self._places.pop(0))
        return None

    async def _ask(self, place: str, method: str, path: str, params: dict[str, str]) -> Any:
        api = await self._find_api(place)
        response = await self._send(place, api, method, path, params)
        if response.status_code in DENIED and self._service.user:
            await self._log_in(place, api)
            response = await self._send(place, api, method, path, params)
        if response.status_code == httpx.codes.NOT_FOUND:
            self._api = None  # another release runs there now
        try:
            return response.json()
        except ValueError:
            if response.status_code == httpx.codes.OK:
                return response.text
        raise MetadataUnavailable(f"Nacos answers {response.status_code} at {place}")

    async def _find_api(self, place: str) -> _Api:
        """v3 where there is one. Before 3 there was none."""
        if self._api is None:
            response = await self._send(place, APIS["v3"], "GET", "/list", {})
            self._api = APIS["v1" if response.status_code == httpx.codes.NOT_FOUND else "v3"]
        return self._api

    async def _send(self, place: str, api: _Api, method: str, path: str, params: dict[str, str]) -> httpx.Response:
        service = self._service
        name = f"{service.group}@@dduomq-{service.name}" if api.is_grouped else f"dduomq-{service.name}"
        whole = {"serviceName": name, "groupName": service.group, "namespaceId": service.namespace, **params}
        if self._token:
            whole["accessToken"] = self._token
        return await self._post(make_request(method, f"{place}{api.instances}{path}", CALL_TIMEOUT_S, params=whole))

    async def _log_in(self, place: str, api: _Api) -> None:
        user = {"username": self._service.user, "password": self._service.password}
        response = await self._post(make_request("POST", f"{place}{api.login}", CALL_TIMEOUT_S, form=user))
        try:
            self._token = str(response.json()["accessToken"])
        except (ValueError, KeyError, TypeError):
            raise MetadataUnavailable(f"Nacos does not let {self._service.user!r} in") from None

    async def _post(self, request: httpx.Request) -> httpx.Response:
        with trio.move_on_after(CALL_TIMEOUT_S):
            try:
                return await self._client.send(request)
            except httpx.TransportError as error:
                raise MetadataUnavailable(f"Nacos can't be reached: {type(error).__name__} {error}") from None
        raise MetadataUnavailable("Nacos does not answer")


def _hosts(answer: Any) -> list[Any] | None:
    """The instances of a list that are well; None if it is no list. v1 has them at the top, v3 as the data."""
    found = answer
    if isinstance(found, dict):
        found = found.get("hosts", found.get("data"))
    if not isinstance(found, list):
        return None
    return [host for host in found if host.get("healthy", True) and host.get("enabled", True)]


def _record(host: Any) -> bytes:
    """A node's record; nothing of an instance that is not one of ours."""
    try:
        return b64decode(host["metadata"][RECORD])
    except (KeyError, TypeError, ValueError):
        return b""


@asynccontextmanager
async def open_nacos(places: Sequence[str], service: Service, api: str, rng: Rng) -> AsyncIterator[NacosRegistry]:
    """The registry of cluster `service.name`; `places` are like http://127.0.0.1:8848. `api` "" finds it out.

    Nothing is asked of Nacos yet: a node starts without it, too.
    """
    async with make_client(CONNECTIONS_MAX, CONNECTIONS_MAX) as client:
        yield NacosRegistry(places, service, api, client, rng)
