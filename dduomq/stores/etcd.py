"""The metadata in etcd, through its JSON gateway.

Always true: all keys of a cluster stand below `/dduomq/NAME` there, and nothing else does. A key's version is
etcd's own revision of its last write, which is never used twice.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from dduomq import limits
from dduomq.actors.nursery import open_flat_nursery
from dduomq.cluster.operations import check_operations
from dduomq.cluster.ports import (
    Changed,
    Check,
    MetadataConflict,
    MetadataUnavailable,
    Operation,
    Put,
    Resync,
    Session,
    SessionLost,
    Versioned,
)
from dduomq.errors import ConfigError, UsageError
from dduomq.stores.etcd_http import Gateway, open_gateway, to_bytes, to_text
from dduomq.stores.feed import Feed
from dduomq.stores.session import BEATS_PER_SESSION, RETRY_S, LocalSession

REVOKE_TIMEOUT_S = 2.0
REWATCH_S = 0.1  # after a watch broke
REWATCH_S_MAX = 2.0
WATCH_SILENCE_S = 3.0  # then the member is asked whether it is still there
OLDEST = (3, 4)
DAMAGING = ((3, 5, 0), (3, 5, 2))  # these releases may lose what they acknowledged (postmortem of 2022-04-20)


class EtcdStore:
    """A `MetadataStore` in etcd; see `open_etcd`."""

    def __init__(self, gateway: Gateway, root: str, session_timeout_ms: int) -> None:
        self._gateway = gateway
        self._root = root
        self._ttl_s = -(-session_timeout_ms // 1000)
        self._session: _Lease | None = None

    # --- reading and writing ------------------------------------------------------------------------

    async def get(self, key: str) -> Versioned | None:
        answer = await self._gateway.read("/v3/kv/range", {"key": self._key(key)})
        found = [self._versioned(kv) for kv in answer.get("kvs", ())]
        return found[0] if found else None

    async def scan(self, prefix: str) -> list[Versioned]:
        """All of one moment, in pages, sorted by key."""
        begin, end = self._range(prefix)
        body: dict[str, Any] = {"key": begin, "range_end": end, "limit": str(limits.METADATA_SCAN_PAGE)}
        found: list[Versioned] = []
        while True:
            answer = await self._gateway.read("/v3/kv/range", body)
            found += [self._versioned(kv) for kv in answer.get("kvs", ())]
            if not answer.get("more"):
                return found
            body["key"] = to_text((self._root + found[-1].key).encode() + b"\0")
            body.setdefault("revision", answer["header"]["revision"])

    async def txn(self, operations: Sequence[Operation]) -> int:
        """See `MetadataStore.txn`."""
        check_operations(operations)
        body = {
            "compare": [self._compare(item) for item in operations if isinstance(item, Check)],
            "success": [self._request(item) for item in operations if not isinstance(item, Check)],
        }
        try:
            answer = await self._gateway.write("/v3/kv/txn", body)
        except SessionLost:
            if self._session is not None:
                self._session.lose()
            raise
        if not answer.get("succeeded"):
            raise MetadataConflict("another node changed the metadata meanwhile")
        return int(answer["header"]["revision"])

    def _compare(self, check: Check) -> dict[str, str]:
        base = {"key": self._key(check.key), "result": "EQUAL"}
        if check.version:
            return base | {"target": "MOD", "mod_revision": str(check.version)}
        return base | {"target": "CREATE", "create_revision": "0"}

    def _request(self, operation: Operation) -> dict[str, dict[str, str]]:
        key = self._key(operation.key)
        if not isinstance(operation, Put):
            return {"request_delete_range": {"key": key}}
        put = {"key": key, "value": to_text(operation.value)}
        if operation.is_ephemeral:
            if self._session is None or not self._session.is_valid:
                raise SessionLost
            put["lease"] = self._session.lease
        return {"request_put": put}

    # --- the session --------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """A lease, kept alive until the end of the block; etcd rounds its time up to what it allows."""
        if self._session is not None:
            raise UsageError("this node has a session already")
        sent = trio.current_time()
        answer = await self._gateway.read("/v3/lease/grant", {"TTL": str(self._ttl_s)})
        lease = _Lease(str(answer["ID"]), sent, int(answer["TTL"]))
        async with open_flat_nursery() as nursery:
            nursery.start_soon(self._keep_alive, lease)
            self._session = lease
            try:
                yield lease
            finally:
                self._session = None
                lease.lose()
                nursery.cancel_scope.cancel()
                await self._revoke(lease)

    async def _keep_alive(self, lease: "_Lease") -> None:
        share_s = lease.timeout_s / BEATS_PER_SESSION
        pause_s = share_s
        while True:
            await trio.sleep(pause_s)
            sent = trio.current_time()
            try:
                answer = await self._gateway.read("/v3/lease/keepalive", {"ID": lease.lease}, share_s)
            except SessionLost:
                lease.lose()
                return
            except MetadataUnavailable:
                if not lease.is_valid:
                    return
                pause_s = RETRY_S
                continue
            pause_s = share_s
            left_s = int(answer.get("result", {}).get("TTL", 0))
            if left_s <= 0:
                lease.lose()
                return
            if not lease.extend(sent + left_s):
                return

    async def _revoke(self, lease: "_Lease") -> None:
        with trio.move_on_after(REVOKE_TIMEOUT_S, shield=True):
            try:
                await self._gateway.read("/v3/lease/revoke", {"ID": lease.lease})
            except MetadataUnavailable:  # it runs out by itself
                return

    # --- watching -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Changed | Resync]]:
        """See `MetadataStore.watch`. While etcd is out of reach it says nothing, and goes on where it was."""
        feed = Feed()
        async with open_flat_nursery() as nursery:
            nursery.start_soon(_Follower(self._gateway, self._root, self._range(prefix), feed).run)
            yield feed
            nursery.cancel_scope.cancel()

    # --- keys ---------------------------------------------------------------------------------------

    def _key(self, key: str) -> str:
        return to_text((self._root + key).encode())

    def _range(self, prefix: str) -> tuple[str, str]:
        """Every key that begins with `prefix`, and no other: the end is the first one after them."""
        begin = (self._root + (prefix or "/")).encode()
        return to_text(begin), to_text(begin[:-1] + bytes([begin[-1] + 1]))

    def _versioned(self, kv: dict[str, str]) -> Versioned:
        key = to_bytes(kv["key"]).decode().removeprefix(self._root)
        return Versioned(key, to_bytes(kv.get("value", "")), int(kv["mod_revision"]))


class _Lease(LocalSession):
    __slots__ = ("lease",)

    def __init__(self, lease: str, sent: float, ttl_s: int) -> None:
        super().__init__(sent, ttl_s)
        self.lease = lease


class _Follower:
    """One watch, through every connection it needs."""

    def __init__(self, gateway: Gateway, root: str, keys: tuple[str, str], feed: Feed) -> None:
        self._gateway = gateway
        self._root = root
        self._keys = keys
        self._feed = feed
        self._seen: int | None = None  # everything up to this revision was told; None: the watcher must scan
        self._heard = 0.0

    async def run(self) -> None:
        """Follow for ever; a member that can't be reached, or stays silent, is left for the next one."""
        pause_s = REWATCH_S
        while True:
            endpoint, begun = self._gateway.current, trio.current_time()
            try:
                async with open_flat_nursery() as nursery:
                    nursery.start_soon(self._probe, endpoint, nursery.cancel_scope)
                    await self._follow(endpoint)
                    nursery.cancel_scope.cancel()
            except MetadataUnavailable:
                self._gateway.leave(endpoint)
            held_up = trio.current_time() - begun > REWATCH_S_MAX
            pause_s = REWATCH_S if held_up else min(2 * pause_s, REWATCH_S_MAX)
            await trio.sleep(pause_s)

    async def _follow(self, endpoint: str) -> None:
        """Returns when etcd ends the watch, as it does when the history was compacted."""
        create = {"key": self._keys[0], "range_end": self._keys[1]}
        if self._seen is not None:
            create["start_revision"] = str(self._seen + 1)
        self._heard = trio.current_time()
        is_over = False
        with trio.CancelScope() as scope:
            async with self._gateway.stream(endpoint, "/v3/watch", {"create_request": create}) as answers:
                async for answer in answers:
                    self._heard = trio.current_time()
                    if not is_over and ("result" not in answer or not self._take(answer["result"])):
                        is_over = True
                        scope.cancel()

    def _take(self, result: dict[str, Any]) -> bool:
        """False when this watch is over."""
        if result.get("canceled"):
            if int(result.get("compact_revision", 0)):
                self._seen = None
            return False
        if result.get("created"):
            revision = int(result["header"]["revision"])
            if self._seen is None:
                self._seen = revision
                self._feed.resync()
            elif revision < self._seen:  # etcd was put back to an older state
                self._seen = None
                return False
        for event in result.get("events", ()):
            kv = event["kv"]
            revision = int(kv["mod_revision"])
            is_gone = event.get("type") == "DELETE"
            value = None if is_gone else to_bytes(kv.get("value", ""))
            self._feed.put(Changed(to_bytes(kv["key"]).decode().removeprefix(self._root), value, revision))
            self._seen = max(self._seen or 0, revision)
        return True

    async def _probe(self, endpoint: str, scope: trio.CancelScope) -> None:
        """A silent watch may have nothing to say, or its member may be gone: a read through it tells."""
        while True:
            await trio.sleep(max(0.0, self._heard + WATCH_SILENCE_S - trio.current_time()))
            if trio.current_time() < self._heard + WATCH_SILENCE_S:
                continue
            if not await self._gateway.answers(endpoint):
                self._gateway.leave(endpoint)
                scope.cancel()
                return
            self._heard = trio.current_time()


@asynccontextmanager
async def open_etcd(endpoints: Sequence[str], name: str, session_timeout_ms: int) -> AsyncIterator[EtcdStore]:
    """The store of cluster `name`; `endpoints` are like http://127.0.0.1:2379.

    Raises `ConfigError` if none of them answers in time, or one runs a release that can't be used.
    """
    async with open_gateway(endpoints) as gateway:
        await _await_ready(gateway)
        yield EtcdStore(gateway, f"/dduomq/{name}", session_timeout_ms)


async def _await_ready(gateway: Gateway) -> None:
    """Wait for members that answer, and for a quorum among them."""
    fault = "no answer"
    with trio.move_on_after(limits.METADATA_START_TIMEOUT_MS / 1000):
        while True:
            for endpoint in gateway.endpoints:
                try:
                    _check_version(endpoint, await gateway.version(endpoint))
                except MetadataUnavailable as error:
                    fault = error.message
            try:
                await gateway.read("/v3/kv/range", {"key": to_text(b"/dduomq"), "count_only": True})
            except MetadataUnavailable as error:
                fault = error.message
                await trio.sleep(REWATCH_S)
            else:
                return
    raise ConfigError(
        f"etcd can't be reached at {', '.join(gateway.endpoints)} ({fault}); start it, or mend the address"
    )


def _check_version(endpoint: str, text: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    version = tuple(int(number) for number in numbers.groups()) if numbers else ()
    if version < OLDEST:
        raise ConfigError(f"etcd {text} at {endpoint} is too old; 3.4 or newer is needed")
    if DAMAGING[0] <= version <= DAMAGING[1]:
        raise ConfigError(f"etcd {text} at {endpoint} may lose data; run 3.5.3 or newer")
