"""Send a few invoices and read them back, under trio. Needs a node: trio-run dduomq.node --id 1"""

import os

import trio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    async with dduomq.connect(SERVER, serializer=dduomq.json) as mq:
        for number in range(3):
            result = await mq.send("invoices", {"number": number, "total": 9.5 * number}, key=f"customer-{number % 2}")
            print(f"stored in {result.topic}-{result.partition} at offset {result.offset} ({result.durability})")

        async with mq.reader("invoices", start="earliest") as reader:
            for record in await reader.pull(max_records=10):
                print(record.partition, record.offset, record.key, record.value)


if __name__ == "__main__":
    trio.run(main)
