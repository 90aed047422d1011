"""Tests of the guards around all tests."""

from __future__ import annotations

import os
import socket

import pytest

ELSEWHERE = "192.0.2.1"  # set aside for documentation, RFC 5737


def test_connections_elsewhere_are_refused() -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match="not this machine"):
        sock.connect((ELSEWHERE, 80))
    with socket.socket() as sock, pytest.raises(RuntimeError, match="not this machine"):
        sock.connect_ex((ELSEWHERE, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(RuntimeError, match="not this machine"):
        sock.sendto(b"", (ELSEWHERE, 53))
    with pytest.raises(RuntimeError, match="not this machine"):
        socket.create_connection(("worker.example", 443))


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1])).close()


def test_no_variable_of_the_machine_is_taken_for_a_setting() -> None:
    assert not [name for name in os.environ if name.startswith(("RUNPOD_", "HF_"))]
    assert not {"MODEL", "PORT", "HOST", "API_KEYS"} & set(os.environ)
