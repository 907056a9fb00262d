"""The Python client, under trio and asyncio alike; it never imports the broker."""
