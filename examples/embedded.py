"""The whole broker inside this process: for tests, tools, and applications that want a durable queue of their own."""

import trio

import dduomq


async def main() -> None:
    async with dduomq.open_node(default_partitions=1) as node:  # a temporary directory; give one to keep the data
        print("the broker listens at", node.address)
        async with dduomq.connect(node.address) as mq:
            await mq.send("jobs", b"resize picture 17")
            for record in await mq.pull("jobs"):
                print(record.offset, record.value)


if __name__ == "__main__":
    trio.run(main)
