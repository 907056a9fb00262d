"""A node: everything put together, and the only place where that is done.

`build(ports, config)` makes a node of any world; `open_node` embeds one in the caller's process;
`trio-run dduomq.node` runs one. Always true: a node that says `node_ready` serves; one that ends in good
order has closed every log and marked its directory clean; one that was killed finds out at its next start.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager

import sniffio
import structlog
import trio

from dduomq import heap
from dduomq.actors.nursery import open_flat_nursery
from dduomq.builder import Builder, Node
from dduomq.config import Config, from_values
from dduomq.engine import EngineMaker, open_engine
from dduomq.errors import ConfigError, DduomqError, UsageError
from dduomq.listeners.admit import Gate
from dduomq.observe import make_log, silent_log
from dduomq.ports import Ports


@asynccontextmanager
async def build(
    ports: Ports,
    config: Config,
    *,
    log: structlog.stdlib.BoundLogger | None = None,
    gate: Gate | None = None,
    make_engine: EngineMaker = open_engine,
) -> AsyncIterator[Node]:
    """Start a node; leaving the block stops it in good order. `make_engine` gives a cluster's node its metadata.

    Raises `DataDirError`, `ListenError` and other `ConfigError`s when it can't start.
    """
    builder = Builder(ports, config, log or silent_log(), gate or Gate(), make_engine)
    async with AsyncExitStack() as stack:
        directory = await builder.open_directory(stack)
        listeners = await builder.listen(stack)
        async with open_flat_nursery() as root:
            stopping = trio.Event()
            try:
                yield await _started(root.start(builder.run, directory, listeners, stopping))
            finally:
                stopping.set()


async def _started(start: Awaitable[Node]) -> Node:
    """A node that can't start for want of space, or a damaged metadata log, is a start-up error like the others."""
    try:
        return await start
    except DduomqError as error:
        raise (
            error if isinstance(error, ConfigError) else ConfigError(f"the node can't start: {error.message}")
        ) from error


# --- embedding --------------------------------------------------------------------------------------


@asynccontextmanager
async def open_node(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    listen: str | None = "127.0.0.1:0",
    log: structlog.stdlib.BoundLogger | None = None,
    **settings: object,
) -> AsyncIterator[Node]:
    """The real broker, in this process; under asyncio in a thread of its own.

    Without `data_dir` it lives in a temporary directory that goes with it. `listen=None` opens no port.
    Any configuration key can be given with underscores for dots: `default_partitions=1`,
    `topic={"durability": "pagecache"}`. Touches no signal handler and no global logging.
    Raises `ConfigError` when it can't start.
    """
    from dduomq.system import real_ports

    path = os.fspath(data_dir) if data_dir is not None else tempfile.mkdtemp(prefix="dduomq-")
    try:
        config = embedded_config(path, listen, settings)
        if sniffio.current_async_library() == "trio":
            async with build(real_ports(), config, log=log) as node:
                yield node
        else:
            async with _in_thread(config, log) as node:
                yield node
    finally:
        if data_dir is None:
            shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def _in_thread(config: Config, log: structlog.stdlib.BoundLogger | None) -> AsyncIterator[Node]:
    """A node with a trio of its own, for asyncio; it is reached through its listener."""
    import asyncio

    from dduomq.system import real_ports

    if not config.listen:
        raise UsageError("under asyncio an embedded node is reached through its port; leave listen= as it is")
    started: Future[tuple[Node, Callable[[], None]]] = Future()

    async def live() -> None:
        stopping, token = trio.Event(), trio.lowlevel.current_trio_token()
        try:
            async with build(real_ports(), config, log=log) as node:
                started.set_result((node, lambda: token.run_sync_soon(stopping.set)))
                await stopping.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=trio.run, args=(live,), name="dduomq-node")
    thread.start()
    try:
        node, stop = await asyncio.wrap_future(started)
        try:
            yield node
        finally:
            stop()
    finally:
        await asyncio.shield(asyncio.to_thread(thread.join))


def embedded_config(path: str, listen: str | None, settings: dict[str, object]) -> Config:
    """The configuration of an embedded node; raises `ConfigError` for keys there are not."""
    values: dict[str, str] = {"data": path, "listen": listen or ""}
    for name, value in settings.items():
        if name == "topic":
            if not isinstance(value, dict):
                raise UsageError("topic= takes a dict of topic settings, like {'durability': 'pagecache'}")
            values |= {f"topic.{key}": _text(inner) for key, inner in value.items()}
        else:
            values[name.replace("_", ".")] = _text(value)
    return from_values(values)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def main(args: Sequence[str]) -> None:
    """`trio-run dduomq.node`: run until cancelled."""
    from dduomq.system import real_ports

    config = Config.load(args, os.environ)
    log = make_log(config.log_level, config.log_format)
    async with open_flat_nursery() as nursery, build(real_ports(), config, log=log) as node:
        nursery.start_soon(heap.tend)
        log.info(
            "node_ready",
            node_id=node.node_id,
            listen=[str(address) for address in node.addresses],
            data=config.data_dir,
            cluster_id=node.cluster_id,
        )
        await trio.sleep_forever()
