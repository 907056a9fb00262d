"""The watch over ZooKeeper's watches, before a server that changes at the worst moments."""

from types import SimpleNamespace

import trio
from kazoo.exceptions import NoNodeError
from kazoo.protocol.states import EventType, WatchedEvent

from dduomq.cluster.ports import Changed, Resync
from dduomq.stores.feed import Feed
from dduomq.stores.zookeeper_names import Names
from dduomq.stores.zookeeper_watch import Follower

NAMES = Names("/dduomq/x")
DIRECTORY, PATH = NAMES.directory("/nodes/1"), NAMES.path("/nodes/1")


class Server:
    """A client and its server in one: one directory, with at most one node, and the watches that were left."""

    def __init__(self):
        self.node = (b"old", 5)  # what it holds, and its version
        self.watch = self.list_watch = None
        self.after_a_miss = lambda: None

    def sync_async(self, path):
        return path

    def create_async(self, path):
        return path

    def get_children_async(self, _path, watch, include_data):
        assert include_data
        self.list_watch = watch
        names = [] if self.node is None else [PATH.rpartition("/")[2]]
        return names, SimpleNamespace(pzxid=6)

    def get_async(self, _path, watch):
        if self.node is None:
            return NoNodeError()
        self.watch = watch
        return self.node[0], SimpleNamespace(mzxid=self.node[1])

    async def read(self, ask):
        await trio.sleep(0.001)
        found = ask(self)
        await trio.sleep(0.001)
        if found and isinstance(found[0], NoNodeError):
            self.after_a_miss()
        return found

    @staticmethod
    def soon(work, *arguments):
        work(*arguments)


async def test_a_node_that_is_made_anew_between_the_two_events_of_its_end_is_told_of(nursery, autojump_clock):
    """The node is read when it is gone, and is there again when its directory is: no watch is left on it then."""
    server, feed = Server(), Feed()
    nursery.start_soon(Follower(server, NAMES, "/nodes/", feed).run)
    changes = aiter(feed)
    assert isinstance(await anext(changes), Resync)
    server.node = None
    node_watch, list_watch = server.watch, server.list_watch

    def made_anew():
        server.after_a_miss = lambda: None
        list_watch(WatchedEvent(EventType.CHILD, None, DIRECTORY))
        server.node = (b"new", 7)

    server.after_a_miss = made_anew
    node_watch(WatchedEvent(EventType.DELETED, None, PATH))
    with trio.fail_after(5):
        assert await anext(changes) == Changed("/nodes/1", b"new", 7)
    server.node = (b"newer", 8)
    server.watch(WatchedEvent(EventType.CHANGED, None, PATH))
    with trio.fail_after(5):
        assert await anext(changes) == Changed("/nodes/1", b"newer", 8)
