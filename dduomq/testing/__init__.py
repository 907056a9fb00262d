"""A whole node in one process on a virtual clock, with a network and disk that fail on demand."""
