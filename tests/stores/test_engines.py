"""What `--metadata` and `--registry` may say, and what is said when that can't work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from dduomq import limits
from dduomq.cluster.ports import Put
from dduomq.errors import ConfigError
from dduomq.stores.engines import Engine, open_outside, parse_engine
from dduomq.stores.etcd import EtcdStore
from dduomq.stores.zookeeper import ZooKeeperStore
from tests.stores.nodes import SESSION_MS
from tests.stores.servers import free_ports

ROOT = Path(__file__).resolve().parents[2]
GOOD = [
    ("embedded", "--metadata", Engine("embedded")),
    ("etcd://h:2379", "--metadata", Engine("etcd", ("h:2379",))),
    ("etcd://h", "--metadata", Engine("etcd", ("h:2379",))),
    ("etcd://a:1,b:2,[::1]:3/main", "--metadata", Engine("etcd", ("a:1", "b:2", "[::1]:3"), "main")),
    ("zk://a,[::1]", "--metadata", Engine("zk", ("a:2181", "[::1]:2181"))),
    ("static", "--registry", Engine("static")),
    (
        "nacos://h:8848/x?api=v1&group=G",
        "--registry",
        Engine("nacos", ("h:8848",), "x", options={"api": "v1", "group": "G"}),
    ),
    ("nacos://u:p%40@h", "--registry", Engine("nacos", ("h:8848",), user="u", password="p@")),
]
BAD = [
    ("", "--metadata", "embedded, etcd, zk"),
    ("raft", "--metadata", "embedded, etcd, zk"),
    ("nacos://h", "--metadata", "embedded, etcd, zk"),
    ("static", "--metadata", "embedded, etcd, zk"),
    ("consul://h", "--registry", "embedded, static, etcd, zk, nacos"),
    ("embedded://h", "--metadata", "stands alone"),
    ("etcd", "--metadata", "etcd://HOST:2379"),
    ("etcd://", "--metadata", "etcd://HOST:2379"),
    ("etcd://h:0", "--metadata", "HOST:PORT"),
    ("etcd://h:99999", "--metadata", "HOST:PORT"),
    ("zk://:2181", "--metadata", "HOST:PORT"),
    ("zk://h/a/b", "--metadata", "no name of a cluster"),
    ("etcd://h/..", "--metadata", "no name of a cluster"),
    ("etcd://u:p@h", "--metadata", "USER:PASSWORD"),
    ("zk://h?x=1", "--metadata", "options"),
    ("nacos://h?api=v9", "--registry", "api=v1"),
    ("nacos://h?apis=v1", "--registry", "api=v1"),
]


@pytest.mark.parametrize(("text", "flag", "engine"), GOOD)
def test_good_engines(text, flag, engine):
    """Every form that the help and the documents name."""
    assert parse_engine(text, flag) == engine


@pytest.mark.parametrize(("text", "flag", "hint"), BAD)
def test_bad_engines(text, flag, hint):
    """Each is refused with how it is written."""
    with pytest.raises(ConfigError, match=hint) as told:
        parse_engine(text, flag)
    assert told.value.message.startswith(f"{flag}: ")


async def test_the_engine_is_opened_that_was_named(tmp_path, server):
    """One way in for all of them; what was written is there the next time."""
    places = {"etcd": server("etcd").address, "zk": server("zookeeper").address}
    for kind, made in (("etcd", EtcdStore), ("zk", ZooKeeperStore)):
        for found in (None, b"kept"):
            url = f"{kind}://{places[kind]}/engines"
            async with open_outside(url, session_timeout_ms=SESSION_MS) as store:
                assert isinstance(store, made)
                held = await store.get("/k")
                assert (held and held.value) == found
                await store.txn([Put("/k", b"kept")])


@pytest.fixture
def impatient(monkeypatch):
    """A start waits for a second."""
    monkeypatch.setattr(limits, "METADATA_START_TIMEOUT_MS", 1_000)


@pytest.mark.parametrize("kind", ["etcd", "zk"])
async def test_a_server_that_is_not_there(kind, impatient):
    """Said at start, with the address and what to do, after a time in which it might have come."""
    (port,) = free_ports(1)
    url = f"{kind}://127.0.0.1:{port}"
    with trio.fail_after(60), pytest.raises(ConfigError, match=f"--metadata: .*127.0.0.1:{port}.*start it, or mend"):
        async with open_outside(url, session_timeout_ms=SESSION_MS):
            pass


async def test_something_else_listens_there(server, impatient):
    """A port where another kind of server answers is told from etcd."""
    url = f"etcd://{server('zookeeper').address}"
    with trio.fail_after(60), pytest.raises(ConfigError, match=r"does not answer as etcd|can't be reached"):
        async with open_outside(url, session_timeout_ms=SESSION_MS):
            pass


MISSING = """
import sys, trio
from random import Random
from dduomq.errors import ConfigError
from dduomq.stores.engines import open_outside, open_registry
url, library = sys.argv[1:]
sys.modules[library] = None
async def main():
    try:
        if url.startswith("nacos"):
            async with open_registry(url, store=None, members=[], session_timeout_ms=1000, rng=Random(1)): pass
        else:
            async with open_outside(url, session_timeout_ms=1000): pass
    except ConfigError as error:
        print(error.message)
trio.run(main)
"""


@pytest.mark.parametrize(
    ("kind", "library", "extra"), [("etcd", "httpx", "etcd"), ("zk", "kazoo", "zookeeper"), ("nacos", "httpx", "nacos")]
)
def test_a_library_that_is_missing(kind, library, extra):
    """Who uses an engine without its library is told what to install."""
    done = subprocess.run(
        [sys.executable, "-c", MISSING, f"{kind}://127.0.0.1", library],
        capture_output=True, text=True, cwd=ROOT, check=True, env=os.environ,
    )  # fmt: skip
    assert f"pip install 'dduomq[{extra}]'" in done.stdout
