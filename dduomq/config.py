"""The node's configuration: command line over environment over file over defaults.

Every option has one name, written `retention.check.interval.ms` in a file or with `--set`, and
`DDUOMQ_RETENTION_CHECK_INTERVAL_MS` in the environment; the everyday ones have a flag of their own. Keys that
begin with `topic.` are defaults for topics: `topic.durability`. Always true: an unknown key is an error that
names the nearest known one.
"""

import argparse
import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import attrs

from dduomq import limits
from dduomq.address import DEFAULT_PORT, LOOPBACK, Address, PeerAddress, parse_addresses, parse_peers
from dduomq.errors import ConfigError, InvalidConfig
from dduomq.log.settings import KEYS, TopicSettings

ENVIRONMENT_PREFIX = "DDUOMQ_"


@attrs.frozen
class Option:
    """One configuration key: how it is read, its default, and what it does."""

    key: str
    parse: Callable[[str], Any]
    default: str
    doc: str
    flag: str | None = None
    metavar: str = "VALUE"


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ConfigError(f"a whole number from {low} to {high} is wanted, not {text!r}") from None
        if not low <= value <= high:
            raise ConfigError(f"a whole number from {low} to {high} is wanted, not {value}")
        return value

    return parse


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ConfigError(f"one of {', '.join(allowed)} is wanted, not {text!r}")
        return text

    return parse


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ConfigError(f"true or false is wanted, not {text!r}")
    return text.lower() == "true"


def _functions(text: str) -> dict[str, Callable[..., Any]]:
    """`NAME=MODULE:FUNCTION,...`, imported; raises `ConfigError` for what is not there."""
    found = {}
    for item in filter(None, text.split(",")):
        name, _, place = item.partition("=")
        module, _, attribute = place.partition(":")
        if not (name and module and attribute):
            raise ConfigError(f"NAME=MODULE:FUNCTION is wanted, not {item!r}")
        try:
            function = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{place} can't be imported: {error}") from None
        if not callable(function):
            raise ConfigError(f"{place} is not a function")
        found[name] = function
    return found


OPTIONS: tuple[Option, ...] = (
    Option("id", _integer(0, 2**31 - 1), "1", "this node's number in the cluster", "--id", "N"),
    Option("data", str, "./dduomq-data", "where the logs are kept", "--data", "DIR"),
    Option(
        "listen",
        parse_addresses,
        f"127.0.0.1:{DEFAULT_PORT}",
        "address for clients; may be repeated",
        "--listen",
        "[NAME=]HOST:PORT",
    ),
    Option(
        "advertise",
        parse_addresses,
        "",
        "address that clients are told to use; may be repeated",
        "--advertise",
        "[NAME=]HOST:PORT",
    ),
    Option(
        "peers",
        parse_peers,
        "",
        "all nodes of the cluster, this one included; one node needs none",
        "--peers",
        "ID@HOST:PORT,...",
    ),
    Option(
        "cluster.secret",
        str,
        "",
        "what the nodes of a cluster know of one another; wanted where a peer is on another machine",
        "--cluster-secret",
        "SECRET",
    ),
    Option(
        "metadata",
        str,
        "embedded",
        "where the cluster keeps its metadata: embedded, etcd://HOST:PORT,..., zk://HOST:PORT,...",
        "--metadata",
        "ENGINE",
    ),
    Option(
        "registry",
        str,
        "embedded",
        "who is told where the nodes are: embedded, static, etcd://..., zk://..., nacos://...",
        "--registry",
        "ENGINE",
    ),
    Option("zone", str, "", "where this node stands; replicas are spread over zones", "--zone", "NAME"),
    Option(
        "session.timeout.ms",
        _integer(200, 3_600_000),
        "1000",
        "a node that is silent for so long leads nothing any more",
    ),
    Option(
        "replica.lag.max.ms",
        _integer(2 * limits.REPLICA_FETCH_WAIT_MS, 2**31),
        str(limits.REPLICA_LAG_MAX_MS),
        "a replica that is behind for so long is in sync no more",
    ),
    Option(
        "replication.catch.up.bytes.per.second",
        _integer(0, 2**40),
        "0",
        "so fast the replicas of this node that are behind are brought up, all together; 0: as fast as it goes",
    ),
    Option("default.replication.factor", _integer(0, 1_000), "0", "replicas of a new topic; 0: three, where there are"),
    Option("plaintext.allowed", _boolean, "false", "listen beyond this machine without TLS"),
    Option(
        "log.level",
        _choice("debug", "info", "warning", "error"),
        "info",
        "how much is logged: debug, info, warning, error",
        "--log-level",
        "LEVEL",
    ),
    Option(
        "log.format",
        _choice("auto", "text", "json"),
        "auto",
        "text, json, or auto: text on a terminal, else JSON",
        "--log-format",
        "FORMAT",
    ),
    Option("auto.create.topics", _boolean, "true", "make a topic when somebody first sends to it or subscribes"),
    Option("default.partitions", _integer(1, limits.PARTITIONS_PER_TOPIC_MAX), "4", "partitions of a new topic"),
    Option(
        "retention.check.interval.ms",
        _integer(100, 2**31),
        "300000",
        "each partition is looked at so often for records to let go",
    ),
    Option(
        "connections.max",
        _integer(1, 1_000_000),
        str(limits.CONNECTIONS_MAX),
        "connections held at once; more are refused",
    ),
    Option(
        "connections.idle.ms",
        _integer(1_000, 2**31),
        str(limits.IDLE_TIMEOUT_MS),
        "a connection that is silent for so long is closed",
    ),
    Option(
        "requests.bytes.max",
        _integer(limits.FRAME_BYTES_MAX, 2**40),
        str(limits.IN_FLIGHT_BYTES_MAX),
        "bytes of requests held at once; then clients wait",
    ),
    Option(
        "assignors",
        _functions,
        "",
        "ways of your own to share a group's partitions out: NAME=MODULE:FUNCTION,...",
        metavar="NAME=MODULE:FUNCTION,...",
    ),
)
SECRETS = {"cluster.secret"}  # never shown
_BY_KEY = {option.key: option for option in OPTIONS}
_ATTRIBUTES = {"id": "node_id", "data": "data_dir"}


@attrs.frozen
class Config:
    """A node's configuration, checked. `topic` holds the defaults for topics."""

    node_id: int = 1
    data_dir: str = "./dduomq-data"
    listen: tuple[Address, ...] = (Address("default", "127.0.0.1", DEFAULT_PORT),)
    advertise: tuple[Address, ...] = ()
    log_level: str = "info"
    log_format: str = "auto"
    auto_create_topics: bool = True
    default_partitions: int = 4
    retention_check_interval_ms: int = 300_000
    connections_max: int = limits.CONNECTIONS_MAX
    connections_idle_ms: int = limits.IDLE_TIMEOUT_MS
    requests_bytes_max: int = limits.IN_FLIGHT_BYTES_MAX
    assignors: Mapping[str, Callable[..., Any]] = attrs.field(factory=dict)
    peers: tuple[PeerAddress, ...] = ()
    cluster_secret: str = attrs.field(default="", repr=False)
    metadata: str = "embedded"
    registry: str = "embedded"
    zone: str = ""
    session_timeout_ms: int = 1_000
    replica_lag_max_ms: int = limits.REPLICA_LAG_MAX_MS
    replication_catch_up_bytes_per_second: int = 0
    default_replication_factor: int = 0
    topic: Mapping[str, str] = attrs.field(factory=dict)

    @staticmethod
    def load(args: Sequence[str], environ: Mapping[str, str]) -> "Config":
        """Raises `ConfigError`; `--help` and unreadable flags end the process as argparse does."""
        flags = _parse_flags(args)
        values: dict[str, str] = {option.key: option.default for option in OPTIONS}
        if flags.config is not None:
            values |= _checked(_read_file(flags.config), flags.config)
        values |= _checked(_from_environment(environ), "the environment")
        values |= _checked(_from_flags(flags), "the command line")
        return from_values(values)

    def entries(self) -> list[tuple[str, str, bool, str]]:
        """(key, value, whether that is the default, what it does) of every option that is in force."""
        held = {
            option: getattr(self, _ATTRIBUTES.get(option.key, option.key.replace(".", "_")), None) for option in OPTIONS
        }
        texts = {option: _as_text(value) for option, value in held.items() if value is not None}
        texts |= {option: "(hidden)" for option in texts if option.key in SECRETS and texts[option]}
        return [(option.key, text, text == option.default, option.doc) for option, text in texts.items()]  # fmt: skip


def from_values(values: Mapping[str, str]) -> Config:
    """The configuration that `values`, by key, say; keys left out have their default."""
    values = {
        **{option.key: option.default for option in OPTIONS},
        **_checked(values, "the settings"),
    }
    topic = {key.removeprefix("topic."): text for key, text in values.items() if key.startswith("topic.")}
    parsed = {key: _parse(_BY_KEY[key], text) for key, text in values.items() if key in _BY_KEY}
    try:
        TopicSettings.from_config(topic)
    except InvalidConfig as error:
        raise ConfigError(f"in the defaults for topics: {error.message}") from None
    config = Config(
        node_id=parsed["id"],
        data_dir=parsed["data"],
        listen=_listen_as_peer(values, parsed),
        advertise=parsed["advertise"],
        log_level=parsed["log.level"],
        log_format=parsed["log.format"],
        auto_create_topics=parsed["auto.create.topics"],
        default_partitions=parsed["default.partitions"],
        retention_check_interval_ms=parsed["retention.check.interval.ms"],
        connections_max=parsed["connections.max"],
        connections_idle_ms=parsed["connections.idle.ms"],
        requests_bytes_max=parsed["requests.bytes.max"],
        assignors=parsed["assignors"],
        peers=parsed["peers"],
        cluster_secret=parsed["cluster.secret"],
        metadata=parsed["metadata"],
        registry=parsed["registry"],
        zone=parsed["zone"],
        session_timeout_ms=parsed["session.timeout.ms"],
        replica_lag_max_ms=parsed["replica.lag.max.ms"],
        replication_catch_up_bytes_per_second=parsed["replication.catch.up.bytes.per.second"],
        default_replication_factor=parsed["default.replication.factor"],
        topic=topic,
    )
    _check_peers(config)
    _check_listeners(config, plaintext_allowed=parsed["plaintext.allowed"])
    return config


def _parse(option: Option, text: str) -> Any:
    try:
        return option.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{option.flag or option.key}: {error.message}") from None


def _as_text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={made.__module__}:{made.__name__}" for name, made in value.items())
    if isinstance(value, tuple):
        names = (getattr(item, "name", "default") for item in value)
        return ",".join(
            str(item) if name == "default" else f"{name}={item}" for name, item in zip(names, value, strict=True)
        )
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_listeners(config: Config, *, plaintext_allowed: bool) -> None:
    advertised = {address.name for address in config.advertise}
    for address in config.listen:
        if not address.is_loopback and not plaintext_allowed:
            raise ConfigError(
                f"--listen {address}: others on the network could read and write everything there; "
                "say --set plaintext.allowed=true if that is meant"
            )
        if address.host in {"0.0.0.0", "::"} and address.name not in advertised:
            raise ConfigError(
                f"--listen {address}: clients can't connect to that address; name the one they can with --advertise"
            )


def _check_peers(config: Config) -> None:
    """One node needs no peers; a cluster is known to each of its nodes whole, and to nobody else."""
    if not config.peers:
        return
    own = [peer for peer in config.peers if peer.node_id == config.node_id]
    if not own:
        raise ConfigError(f"--peers names all nodes, this one included: add {config.node_id}@HOST:PORT, or mend --id")
    far = [peer for peer in config.peers if not peer.host.startswith(LOOPBACK)]
    if far and not config.cluster_secret:
        raise ConfigError(
            f"--peers: {far[0]} is on another machine, so the nodes must know one another: give all of them the same "
            "--cluster-secret (or DDUOMQ_CLUSTER_SECRET in the environment)"
        )


def _listen_as_peer(values: Mapping[str, str], parsed: dict[str, Any]) -> tuple[Address, ...]:
    """Where nothing is said of listening, a node listens where its peers look for it."""
    own = [peer for peer in parsed["peers"] if peer.node_id == parsed["id"]]
    if own and values["listen"] == _BY_KEY["listen"].default:
        return (Address("default", own[0].host, own[0].port),)
    listen: tuple[Address, ...] = parsed["listen"]
    return listen


def _checked(values: Mapping[str, str], where: str) -> Mapping[str, str]:
    known = [*_BY_KEY, *(f"topic.{key}" for key in KEYS)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "; --help lists all"
            raise ConfigError(f"{where}: there is no option {key!r}{hint}")
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Only names that dduomq reads: others of the prefix would be somebody's typing mistake."""
    other = {"DDUOMQ_TRACEBACK", "DDUOMQ_SERVER"}
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", "."): text
        for name, text in environ.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name not in other
    }


def _read_file(path: str) -> dict[str, str]:
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}") from None
    return dict(_flatten(tree))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found += _flatten(value, f"{key}.")
        elif isinstance(value, list):
            found.append((key, ",".join(str(item) for item in value)))
        else:
            found.append((key, str(value).lower() if isinstance(value, bool) else str(value)))
    return found


def _from_flags(flags: argparse.Namespace) -> dict[str, str]:
    values: dict[str, str] = {}
    for option in OPTIONS:
        given = getattr(flags, option.key.replace(".", "_"), None)
        if given is not None:
            values[option.key] = ",".join(given) if isinstance(given, list) else given
    for item in flags.set or ():
        key, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"--set wants KEY=VALUE, not {item!r}")
        values[key] = text
    return values


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see trio-run dduomq.node --help")


def _parse_flags(args: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="trio-run dduomq.node",
        description="Run one dduomq node until it is told to stop (Ctrl-C or SIGTERM).",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in OPTIONS:
        if option.flag is None:
            continue
        parser.add_argument(
            option.flag,
            dest=option.key.replace(".", "_"),
            metavar=option.metavar,
            action="append" if option.parse is parse_addresses else "store",
            help=f"{option.doc} (default: {option.default or 'none'})",
        )
    parser.add_argument("--config", metavar="FILE.toml", help="read options from a TOML file")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="set any option; may be repeated")
    return parser.parse_args(args)


def _epilog() -> str:
    lines = ["options without a flag, for --set, the file, or the environment (DDUOMQ_...):"]
    lines += [f"  {o.key:<32} {o.doc} (default: {o.default})" for o in OPTIONS if o.flag is None]
    lines += ["", "defaults for topics:"]
    lines += [f"  {'topic.' + key:<36} {entry.doc} (default: {entry.default})" for key, entry in KEYS.items()]
    lines += [
        "",
        "examples:",
        "  trio-run dduomq.node --id 1",
        "  trio-run dduomq.node --data /var/lib/dduomq --set topic.durability=pagecache",
    ]
    return "\n".join(lines)
