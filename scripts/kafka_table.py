"""Writes the table of Kafka's APIs and their versions into docs/kafka.md, from the tables of the code.

python scripts/kafka_table.py            # rewrites docs/kafka.md
python scripts/kafka_table.py --check    # exit 1 if that would change it
"""

import sys
from pathlib import Path

from dduomq.wire.kafka.registry import APIS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kafka.md"
BEGIN, END = "<!-- begin: APIs, made by scripts/kafka_table.py -->", "<!-- end: APIs -->"


def table() -> str:
    """One row for each API, by its key."""
    rows = ["| key | API | versions |", "|---:|---|---|"]
    rows += [f"| {api.key} | {api.name} | {api.first}-{api.last} |" for api in APIS.values()]
    return "\n".join(rows)


def renewed(page: str) -> str:
    """The page with the table that the code says."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {PAGE} has not both of the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Rewrite, or only look."""
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
    elif page != new:
        raise SystemExit(f"error: {PAGE} is not up to date; run scripts/kafka_table.py")


if __name__ == "__main__":
    main()
