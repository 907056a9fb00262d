"""Headers that tell where a record that was put elsewhere came from, and why."""

ORIGIN_TOPIC_HEADER = "dduomq-origin-topic"
ORIGIN_PARTITION_HEADER = "dduomq-origin-partition"
ORIGIN_OFFSET_HEADER = "dduomq-origin-offset"
REASON_HEADER = "dduomq-reason"
