"""Which metadata engine and which registry a node uses, by what `--metadata` and `--registry` say.

    embedded                                         this node's own disk, or the quorum of the peers
    etcd://HOST:PORT,...[/NAME]                      NAME is the cluster's there: `default`
    zk://HOST:PORT,...[/NAME]
    static                                           a registry: what `--peers` says
    nacos://[USER:PASSWORD@]HOST:PORT,...[/NAME]     a registry; ?api=v1|v3, ?namespace=, ?group=

Always true: an engine's library is loaded only when it is used. What can't work is a `ConfigError` at start.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from dduomq.cluster.image import NodeRecord
from dduomq.cluster.ports import MetadataStore, Registry
from dduomq.errors import ConfigError
from dduomq.ports import Rng
from dduomq.stores.registry import LeasedRegistry, StaticRegistry, StoreRegistry

DEFAULT_NAME = "default"
PORTS = {"etcd": 2379, "zk": 2181, "nacos": 8848}
EXTRAS = {"etcd": ("etcd", "httpx"), "zk": ("zookeeper", "kazoo"), "nacos": ("nacos", "httpx")}
KINDS = {"--metadata": ("embedded", "etcd", "zk"), "--registry": ("embedded", "static", "etcd", "zk", "nacos")}
NACOS_OPTIONS = {"api", "namespace", "group"}
NACOS_APIS = {"v1", "v3"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@attrs.frozen
class Engine:
    """An engine and where it is. `places` are HOST:PORT; `name` is the cluster's there."""

    kind: str
    places: tuple[str, ...] = ()
    name: str = DEFAULT_NAME
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    options: Mapping[str, str] = attrs.field(factory=dict)


def parse_engine(text: str, flag: str = "--metadata") -> Engine:
    """Raises `ConfigError` with how it is written."""
    kind, colon, _ = text.partition("://")
    kinds = KINDS[flag]
    if kind not in kinds:
        raise ConfigError(f"{flag}: {', '.join(kinds)} are known, not {kind!r}")
    if kind not in PORTS:
        if colon:
            raise ConfigError(f"{flag}: {kind} stands alone, without ://")
        return Engine(kind)
    parts = urlsplit(text)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    places = tuple(_place(item, kind, flag) for item in hosts.split(",") if item)
    if not colon or not places:
        raise ConfigError(f"{flag}: {kind} is written {kind}://HOST:{PORTS[kind]}, with a comma between several")
    name = parts.path.strip("/") or DEFAULT_NAME
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{flag}: {name!r} is no name of a cluster: letters, digits, '.', '_' and '-'")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    _check_options(kind, options, credentials, flag)
    return Engine(kind, places, name, unquote(user), unquote(password), options)


def _check_options(kind: str, options: Mapping[str, str], credentials: str, flag: str) -> None:
    if kind != "nacos" and (options or credentials):
        raise ConfigError(f"{flag}: {kind} takes neither USER:PASSWORD@ nor options after '?'")
    for key, value in options.items():
        if key not in NACOS_OPTIONS or (key == "api" and value not in NACOS_APIS):
            raise ConfigError(f"{flag}: {kind} has api=v1, api=v3, namespace=... and group=..., not {key}={value}")


def _place(text: str, kind: str, flag: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORTS[kind])
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"{flag}: an address is written HOST:PORT, like 127.0.0.1:{PORTS[kind]}, not {text!r}")
    return f"{host}:{port}"


def open_outside(text: str, *, session_timeout_ms: int) -> AbstractAsyncContextManager[MetadataStore]:
    """The store that `--metadata` names, where that is not the nodes' own.

    Raises `ConfigError`, also if its servers don't answer at start.
    """
    return _open_outside(parse_engine(text), session_timeout_ms, "--metadata")


@asynccontextmanager
async def open_registry(
    text: str, *, store: MetadataStore, members: Sequence[NodeRecord], session_timeout_ms: int, rng: Rng
) -> AsyncIterator[Registry]:
    """The registry that `--registry` names. `store` has the cluster's metadata, `members` is what `--peers` says."""
    engine = parse_engine(text, "--registry")
    if engine.kind == "embedded":
        yield StoreRegistry(store)
    elif engine.kind == "static":
        yield StaticRegistry(members)
    elif engine.kind == "nacos":
        async with _open_nacos(engine, rng) as nacos:
            yield nacos
    else:
        async with _open_outside(engine, session_timeout_ms, "--registry") as outside:
            yield LeasedRegistry(outside, rng)


@asynccontextmanager
async def _open_outside(engine: Engine, session_timeout_ms: int, flag: str) -> AsyncIterator[MetadataStore]:
    opening = (_etcd if engine.kind == "etcd" else _zookeeper)(engine, session_timeout_ms, flag)
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(opening)
        except ConfigError as error:
            raise ConfigError(f"{flag}: {error.message}") from None
        yield store


def _etcd(engine: Engine, session_timeout_ms: int, flag: str) -> AbstractAsyncContextManager[MetadataStore]:
    try:
        from dduomq.stores.etcd import open_etcd
    except ModuleNotFoundError as error:
        raise _missing(error, engine.kind, flag) from None
    return open_etcd([f"http://{place}" for place in engine.places], engine.name, session_timeout_ms)


def _zookeeper(engine: Engine, session_timeout_ms: int, flag: str) -> AbstractAsyncContextManager[MetadataStore]:
    try:
        from dduomq.stores.zookeeper import open_zookeeper
    except ModuleNotFoundError as error:
        raise _missing(error, engine.kind, flag) from None
    return open_zookeeper(",".join(engine.places), engine.name, session_timeout_ms)


def _open_nacos(engine: Engine, rng: Rng) -> AbstractAsyncContextManager[Registry]:
    try:
        from dduomq.stores.registry_nacos import Service, open_nacos
    except ModuleNotFoundError as error:
        raise _missing(error, engine.kind, "--registry") from None
    options = engine.options
    service = Service(
        engine.name, options.get("namespace", "public"), options.get("group", "DEFAULT_GROUP"), engine.user,
        engine.password,
    )  # fmt: skip
    return open_nacos([f"http://{place}" for place in engine.places], service, options.get("api", ""), rng)


def _missing(error: ModuleNotFoundError, kind: str, flag: str) -> Exception:
    """An engine's library that is not there is the user's to install; any other is a fault."""
    extra, library = EXTRAS[kind]
    if (error.name or "").partition(".")[0] != library:
        return error
    return ConfigError(f"{flag} {kind}://: {library} is not installed; pip install 'dduomq[{extra}]'")
