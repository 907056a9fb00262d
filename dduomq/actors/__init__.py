"""Trio tasks that own state: each file is one actor and opens with the table of its messages."""
