"""The examples and the tour."""
