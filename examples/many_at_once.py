"""Send fast: hand records over without waiting for each, or send whole batches. Under asyncio."""

import asyncio
import os

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    async with dduomq.connect(SERVER, compression="zstd") as mq:
        # Each record gets its own result; the client sends what has gathered meanwhile in one request.
        deliveries = [await mq.send_async("readings", f"reading {n}", key=f"sensor-{n % 10}") for n in range(1000)]
        for delivery in deliveries:
            await delivery  # raises if that record was not stored

        # All of these are stored next to each other, or none is.
        result = await mq.send_batch("readings", [f"calibration {n}" for n in range(100)], key="sensor-3")
        print(f"{result.count} records from offset {result.offset} of partition {result.partition}")


if __name__ == "__main__":
    asyncio.run(main())
