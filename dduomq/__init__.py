"""dduomq: a log broker of the Kafka family on trio."""
