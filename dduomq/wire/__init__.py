"""Bytes to frozen values and back, without input or output."""
