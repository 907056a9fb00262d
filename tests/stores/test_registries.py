"""Registries: whoever looks for the nodes finds them, and nobody stops for want of one."""

from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from random import Random

import pytest
import trio

from dduomq.cluster.image import NODES, NodeAddress, NodeRecord, encode_node
from dduomq.cluster.ports import Put
from dduomq.stores import registry_nacos
from dduomq.stores.engines import open_registry, parse_engine
from dduomq.stores.registry import News, StaticRegistry, read_nodes
from tests.stores.nacos import FakeNacos, running_nacos
from tests.stores.nodes import SESSION_MS, Embedded

TIMEOUT_S = 60
_numbers = count()


def node(number, zone=""):
    addresses = (NodeAddress("default", "127.0.0.1", 6_000 + number), NodeAddress("kafka", "127.0.0.1", 9_000 + number))
    return NodeRecord(number, f"dir{number}", addresses, zone)


@asynccontextmanager
async def opened(url, store=None):
    async with open_registry(
        url, store=store, members=[node(2), node(1)], session_timeout_ms=SESSION_MS, rng=Random(1)
    ) as registry:
        yield registry


@pytest.fixture(params=["etcd", "zk", "nacos v1", "nacos v3"])
async def outside(request, server):
    """The URL of every registry that nodes enter themselves into."""
    name = f"registry{next(_numbers)}"
    if request.param in {"etcd", "zk"}:
        place = server({"etcd": "etcd", "zk": "zookeeper"}[request.param]).address
        yield f"{request.param}://{place}/{name}"
    else:
        async with running_nacos(FakeNacos(apis=request.param.split()[1:])) as place:
            yield f"nacos://{place}/{name}"


@pytest.fixture
def quick(monkeypatch):
    """Beats and questions come without long waits between them."""
    monkeypatch.setattr(registry_nacos, "BEAT_S", 0.05)
    monkeypatch.setattr(registry_nacos, "POLL_S", 0.05)


async def heard(watch, wanted):
    """Wait for that list."""
    with trio.fail_after(TIMEOUT_S):
        async for nodes in watch:
            if nodes == wanted:
                return


async def test_nodes_enter_themselves_and_leave(outside, quick):
    """Who registers is found, with all his addresses, by whoever watches or asks; who leaves is gone."""
    async with opened(outside) as one, opened(outside) as other, opened(outside) as looker, looker.watch() as watch:
        await heard(watch, [])
        async with one.register(node(1, "zone a")):
            async with other.register(node(2)):
                await heard(watch, [node(1, "zone a"), node(2)])
                assert await looker.nodes() == [node(1, "zone a"), node(2)]
            await heard(watch, [node(1, "zone a")])
        await heard(watch, [])


async def test_the_metadata_are_a_registry(tmp_path):
    """Without another one, the nodes that are in the cluster are found in its metadata."""
    async with (
        Embedded(tmp_path).open() as store,
        opened("embedded", store) as registry,
        registry.watch() as watch,
        registry.register(node(1)),
    ):
        await heard(watch, [])
        async with store.session():
            await store.txn([Put(f"{NODES}{n}", encode_node(node(n)), is_ephemeral=True) for n in (10, 2)])
            await heard(watch, [node(2), node(10)])
            assert await registry.nodes() == [node(2), node(10)]
        await heard(watch, [])


async def test_a_fixed_list(tmp_path):
    """What the configuration says is all there is."""
    async with opened("static") as registry, registry.register(node(9)), registry.watch() as watch:
        await heard(watch, [node(1), node(2)])
        assert await registry.nodes() == [node(1), node(2)]


async def until(is_so):
    """Wait for it."""
    with trio.fail_after(TIMEOUT_S):
        while not is_so():  # noqa: ASYNC110  # there is nobody to tell
            await trio.sleep(0.01)


async def test_nacos_forgets_and_is_told_again(quick):
    """A Nacos that was restarted knows nobody: the next beat is answered so, and the node registers again."""
    for api in ("v1", "v3"):
        fake = FakeNacos()
        async with running_nacos(fake) as place, opened(f"nacos://{place}/n?api={api}") as registry:
            async with registry.register(node(1)):
                await until(lambda fake=fake: fake.instances)
                fake.instances.clear()
                await until(lambda fake=fake: fake.instances)
                assert await registry.nodes() == [node(1)]
            assert fake.instances == {}


@pytest.mark.parametrize("apis", [("v1",), ("v3",)])
async def test_a_node_of_nacos_beats(apis, quick):
    """Beats keep it: it registers once, and is never forgotten."""
    fake = FakeNacos(apis=apis, forget_after_s=1.0)
    path = {"v1": "/nacos/v1/ns/instance", "v3": "/nacos/v3/client/ns/instance"}[apis[0]]
    async with running_nacos(fake) as place, opened(f"nacos://{place}/n") as registry, registry.register(node(1)):
        await until(lambda: len([call for call in fake.calls if call[0] in {"POST", "PUT"}]) > 30)
        assert await registry.nodes() == [node(1)]
    if apis == ("v1",):
        assert fake.calls.count(("POST", path)) == 1


async def test_nacos_that_is_down_stops_nobody(quick):
    """The last list holds, and a node that can't register waits for it."""
    fake = FakeNacos()
    async with AsyncExitStack() as stack:
        async with running_nacos(fake) as place:
            registry = await stack.enter_async_context(opened(f"nacos://127.0.0.1:1,{place}/n"))
            async with registry.register(node(1)), registry.watch() as watch:
                await heard(watch, [node(1)])
        port = int(place.rpartition(":")[2])
        assert await registry.nodes() == [node(1)]
        await stack.enter_async_context(registry.register(node(2)))
        fake.instances.clear()
        async with running_nacos(fake, port), registry.watch() as watch:
            await heard(watch, [node(2)])


@pytest.mark.parametrize("apis", [("v1",), ("v3",)])
async def test_nacos_with_a_password(apis, quick):
    """A login gives a token, with which everything is asked again."""
    fake = FakeNacos(apis=apis, password="s3 cret")
    async with running_nacos(fake) as place:
        known = f"nacos://nacos:s3%20cret@{place}/n"
        async with opened(known) as registry, registry.register(node(1)), registry.watch() as watch:
            await heard(watch, [node(1)])
        async with opened(f"nacos://nacos:wrong@{place}/n") as registry:
            assert await registry.nodes() == []


async def test_a_newer_nacos_is_noticed(quick):
    """An upgrade while nodes are registered: what is gone is left for what is there."""
    fake = FakeNacos(apis=("v1",))
    async with running_nacos(fake) as place, opened(f"nacos://{place}/n") as registry, registry.register(node(1)):
        await until(lambda: fake.instances)
        fake.apis = ("v3",)
        fake.instances.clear()
        await until(lambda: fake.instances)
        assert await registry.nodes() == [node(1)]


async def test_strangers_in_nacos_are_left_out():
    """Instances that are no nodes, or of a release that can't be read, hinder nobody."""
    fake = FakeNacos()
    async with running_nacos(fake) as place, opened(f"nacos://{place}/n") as registry, registry.register(node(1)):
        await until(lambda: fake.instances)
        key = next(iter(fake.instances))
        strange = ({}, {registry_nacos.RECORD: "?"}, {registry_nacos.RECORD: "gf8="})
        for port, metadata in enumerate(strange):
            fake.instances[(*key[:3], str(port))] = {"beat": trio.current_time(), "metadata": metadata}
        assert await registry.nodes() == [node(1)]


def test_a_password_is_never_shown():
    """Neither the engine's address nor the service shows it."""
    engine = parse_engine("nacos://nacos:hidden@h:1/n", "--registry")
    assert engine.password == "hidden"
    assert "hidden" not in repr(engine)
    assert "hidden" not in repr(registry_nacos.Service("n", password="hidden"))


def test_records_that_cannot_be_read_are_left_out():
    """Those of a newer release, and what is none."""
    assert read_nodes([b"", b"\xff", b"\x81\x18\xff", encode_node(node(2)), encode_node(node(1))]) == [node(1), node(2)]


async def test_news_are_told_once():
    """The same list again is no news; who is slow hears the last one."""
    news = News()
    news.put([node(1)])
    assert await anext(news) == [node(1)]
    news.put([node(1)])
    with trio.move_on_after(0.01) as scope:
        await anext(news)
    assert scope.cancelled_caught
    news.put([node(2)])
    news.put([node(1), node(2)])
    assert await anext(news) == [node(1), node(2)]


async def test_a_static_registry_is_sorted():
    """By number, as all registries are."""
    assert [one.node_id for one in await StaticRegistry([node(3), node(1)]).nodes()] == [1, 3]
