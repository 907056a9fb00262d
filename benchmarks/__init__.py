"""What dduomq costs, measured: run by `scripts/bench`."""
