"""What the tests of engines share: servers, started when first asked for and kept until the end."""

import pytest

from tests.stores.nodes import ENGINES, FALLIBLE, SERVERS, make_engine


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A function: the one server of a kind that all tests share; nobody may kill it."""
    running = {}

    def get(kind):
        if kind not in running:
            running[kind] = SERVERS[kind](tmp_path_factory.mktemp(kind))
        return running[kind]

    yield get
    for one in running.values():
        one.stop()


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path, server):
    """Every metadata engine in turn, with nothing in it."""
    return make_engine(request.param, tmp_path, server)


@pytest.fixture(params=FALLIBLE)
def fallible(request, tmp_path):
    """Every engine with servers, one of its own for this test, to be killed and frozen."""
    one = SERVERS[request.param](tmp_path / "server")
    yield make_engine(request.param, tmp_path, lambda _kind: one)
    one.stop()
