"""kazoo, which lives in threads of its own, as trio sees it: calls that can be cancelled, states as events.

Always true: kazoo's threads do nothing here but hand over to the event loop, and no call takes a thread. A call
ends by its deadline. What was handed to kazoo may be carried out although nobody waits any more: of a write that
is `MetadataUnknown`, `MetadataUnavailable` only if kazoo never got it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import trio
from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, KazooException, SessionExpiredError
from kazoo.protocol.states import KazooState

from dduomq import limits
from dduomq.cluster.ports import MetadataUnavailable, MetadataUnknown, SessionLost

CALL_TIMEOUT_S = limits.METADATA_CALL_TIMEOUT_MS / 1000
STOP_TIMEOUT_S = 3.0
UNTOLD_SESSION_S = 4.0  # of a server that uses the defaults, should kazoo not tell what it granted
_LOST = (ConnectionLoss, ConnectionClosedError)
_RECONNECT = {"max_tries": -1, "delay": 0.05, "backoff": 2, "max_jitter": 0.2, "max_delay": 1.0}


class _Ear(logging.Logger):
    """kazoo's log, which nobody sees: the states tell it all, but for the session's time that the server granted."""

    def __init__(self) -> None:
        super().__init__("kazoo", logging.CRITICAL + 1)
        self.granted_ms: int | None = None

    def log(self, level: int, msg: object, *args: object, **_more: Any) -> None:
        if str(msg).startswith("Session created") and len(args) > 2 and isinstance(args[2], int):
            self.granted_ms = args[2]


class Keeper:
    """One session of ZooKeeper's, and its successors. Made by the event loop's task that closes it, too."""

    def __init__(self, hosts: str, timeout_s: float) -> None:
        self._ear = _Ear()
        self._timeout_s = timeout_s
        self._token = trio.lowlevel.current_trio_token()
        self._connected = trio.Event()
        self._away_since = trio.current_time()
        self.on_lost: Callable[[], None] = lambda: None
        self.client = KazooClient(
            hosts=hosts, timeout=timeout_s, connection_retry=dict(_RECONNECT), logger=self._ear, randomize_hosts=True
        )
        self.client.add_listener(lambda state: self.soon(self._on_state, state))

    @property
    def granted_s(self) -> float:
        """How long the server keeps a silent session."""
        if self._ear.granted_ms is None:
            return min(self._timeout_s, UNTOLD_SESSION_S)
        return self._ear.granted_ms / 1000

    @property
    def session_id(self) -> int:
        known = self.client.client_id
        return 0 if known is None else int(known[0] or 0)

    def soon(self, act: Callable[..., None], *args: object) -> None:
        """From any thread: call it on the event loop, if that is still there."""
        try:
            self._token.run_sync_soon(act, *args)
        except trio.RunFinishedError:
            return

    def _on_state(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._connected.set()
            return
        if self._connected.is_set():
            self._connected = trio.Event()
            self._away_since = trio.current_time()
        if state == KazooState.LOST:
            self.on_lost()

    async def open(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Begin the session. Raises `MetadataUnavailable`."""
        self.client.start_async()
        self._away_since = trio.current_time() + timeout_s - CALL_TIMEOUT_S
        await self._wait_connected(timeout_s)

    async def close(self) -> None:
        """End the session, and with it its ephemeral nodes; a server that does not answer is not waited for."""
        with trio.move_on_after(STOP_TIMEOUT_S, shield=True):
            await trio.to_thread.run_sync(self._stop, abandon_on_cancel=True)

    def _stop(self) -> None:
        try:
            self.client.stop()
            self.client.close()
        except (KazooException, OSError, AttributeError):  # it was never up, or does not answer
            return

    async def _wait_connected(self, timeout_s: float) -> None:
        """Raises `MetadataUnavailable`, at once when the server has been away for longer than a call may take."""
        if self._connected.is_set():
            return
        with trio.move_on_at(min(trio.current_time() + timeout_s, self._away_since + CALL_TIMEOUT_S)):
            await self._connected.wait()
            return
        raise MetadataUnavailable(f"ZooKeeper can't be reached at {_places(self.client)}")

    async def read(self, ask: Callable[[KazooClient], Sequence[Any]], timeout_s: float = CALL_TIMEOUT_S) -> list[Any]:
        """The results of calls that `ask` makes all at once, asked again when the connection breaks.

        A node that is not there gives the `NoNodeError` as its result. Raises `MetadataUnavailable`.
        """
        deadline = trio.current_time() + timeout_s
        while trio.current_time() < deadline:
            await self._wait_connected(deadline - trio.current_time())
            with trio.move_on_at(deadline):
                results = ask(self.client)
                await self._settled(results)
                if not any(isinstance(result.exception, (*_LOST, SessionExpiredError)) for result in results):
                    return [_value(result) for result in results]
                await trio.sleep(0.01)
        raise MetadataUnavailable(f"ZooKeeper does not answer at {_places(self.client)}")

    async def commit(self, transaction: TransactionRequest) -> list[Any]:
        """The results of a transaction's parts. Raises `MetadataUnavailable` (not applied) or `MetadataUnknown`."""
        await self._wait_connected(CALL_TIMEOUT_S)
        with trio.move_on_after(CALL_TIMEOUT_S):
            result = transaction.commit_async()
            await self._settled([result])
            if isinstance(result.exception, SessionExpiredError):
                raise SessionLost("ZooKeeper has ended this node's session")
            if not isinstance(result.exception, _LOST):
                return list(_value(result))
        raise MetadataUnknown("ZooKeeper's answer was lost; read again to see what holds")

    async def _settled(self, results: Sequence[Any]) -> None:
        """Wait until all of them are there; kazoo gives them in the order in which they were asked for."""
        await trio.lowlevel.checkpoint()
        for result in reversed(results):
            if not result.ready():
                done = trio.Event()
                result.rawlink(lambda _, done=done: self.soon(done.set))
                await done.wait()


def each(method: str, paths: Sequence[str], **options: Any) -> Callable[[KazooClient], list[Any]]:
    """What `Keeper.read` wants: one call of a method for every path."""
    return lambda client: [getattr(client, method)(path, **options) for path in paths]


def _value(result: Any) -> Any:
    """What came out; of a refusal by the server the exception, which says what is not there or not so."""
    if result.exception is None:
        return result.value
    if isinstance(result.exception, KazooException) and type(result.exception).__name__ in {
        "NoNodeError", "NodeExistsError"
    }:  # fmt: skip
        return result.exception
    raise MetadataUnavailable(f"ZooKeeper refuses: {type(result.exception).__name__} {result.exception}".rstrip())


def _places(client: KazooClient) -> str:
    return ", ".join(f"{host}:{port}" for host, port in client.hosts)
