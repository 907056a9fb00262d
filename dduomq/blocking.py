"""`dduomq.blocking.connect`: the client for scripts, without async.

    with dduomq.blocking.connect("localhost:6086") as mq:
        mq.send("orders", "hello")
        for record in mq.reader("orders"):
            print(record.value)

It is the same client, run in a thread of its own. Always true: leaving the block ends that thread.
"""

from dduomq.client.blocking import BlockingAdmin, BlockingClient, BlockingReader, connect

__all__ = ["BlockingAdmin", "BlockingClient", "BlockingReader", "connect"]
