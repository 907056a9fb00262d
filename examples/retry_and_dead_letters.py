"""A handler that fails: its record comes again, rests as a dead letter in the end, and is sent on when all is well."""

import os

import anyio

import dduomq

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


async def main() -> None:
    is_mended = False
    charged = anyio.Event()

    async def charge(record: dduomq.GroupRecord) -> None:
        print(f"try {record.attempt} of {record.value.decode()}, before it: {record.last_error}")
        if not is_mended:
            raise RuntimeError("the bank does not answer")
        charged.set()

    async with dduomq.connect(SERVER) as mq:
        await mq.send("charges", "order 17")
        async with (
            mq.consumer("charges", group="billing", retry=[0.2, 0.4]) as consumer,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(consumer.run, charge)
            async for event in consumer.events():
                if isinstance(event, dduomq.events.DeadLettered):
                    break
            await anyio.sleep(0.5)  # its copy is on its way
            async for letter in mq.admin.dead_letters("billing"):
                print(f"dead: {letter.value!r}, {letter.reason}: {letter.error}")
            is_mended = True
            print("sent on:", await mq.admin.redrive("billing"))
            await charged.wait()
            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
