"""Binds the socket. Imports little, so that the socket can be bound before the server is imported."""

from __future__ import annotations

import socket

from worker_gguf.errors import SettingsError

__all__ = ["BACKLOG", "bind"]

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket and listen on it, so that connections wait for the event loop instead of failing.

    Raises SettingsError if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingsError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another HOST or PORT.") from None
    sock.setblocking(False)
    return sock
