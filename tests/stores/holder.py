"""A process that holds an ephemeral key until it is killed: `python -m tests.stores.holder KIND ADDRESS NAME KEY`."""

import sys

import trio

from dduomq.cluster.ports import Put
from tests.stores.nodes import open_at


async def hold(kind, address, name, key):
    async with open_at(kind, address, name) as store, store.session():
        await store.txn([Put(key, b"held", is_ephemeral=True)])
        print("held", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(hold, *sys.argv[1:])
