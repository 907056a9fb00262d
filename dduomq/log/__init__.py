"""The log on disk: segments, indexes, producers, recovery; pure but for `files.py`."""
