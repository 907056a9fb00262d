"""Sockets: bytes in, requests through the gate, answers out."""
