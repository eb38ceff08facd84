"""What a peer's worker runs; its process imports this and nothing else of ours."""

from __future__ import annotations

from multiprocessing.connection import Connection


def answer(connection: Connection) -> None:
    """Answer one call, and end when told so."""
    connection.send(connection.recv())
    connection.recv()
