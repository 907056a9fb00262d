"""What `dduomq-dump` does: read log files by themselves, without a broker."""
