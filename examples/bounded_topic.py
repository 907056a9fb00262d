"""A topic that never takes more than it was given: the sender hears about it, or the oldest records go."""

import os

import trio

import dduomq
from dduomq.errors import CapacityReached, TopicAlreadyExists

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    async with dduomq.connect(SERVER) as mq:
        try:
            await mq.admin.create_topic("narrow", partitions=1, config={"capacity.records": "10"})
        except TopicAlreadyExists:
            await mq.admin.purge("narrow")
        stored = 0
        try:
            while True:
                await mq.send("narrow", f"record {stored}")
                stored += 1
        except CapacityReached as error:
            print(f"{stored} records fit; then: {error}")


if __name__ == "__main__":
    trio.run(main)
