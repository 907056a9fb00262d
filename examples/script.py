"""No async at all: the same client for scripts."""

import os

from dduomq import blocking

SERVER = os.environ.get("DDUOMQ_SERVER", "localhost:6086")


def main() -> None:
    with blocking.connect(SERVER) as mq:
        result = mq.send("notes", "buy milk")
        for record in mq.pull("notes", partition=result.partition, offset=result.offset):
            print(record.offset, record.value.decode())


if __name__ == "__main__":
    main()
