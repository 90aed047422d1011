"""Requests and files for the tests of batches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from worker_gguf.batch.lines import Line, lines_of_list

__all__ = ["chat", "lines", "read_results"]

CHAT = "/v1/chat/completions"


def chat(custom_id: str, **body: object) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"messages": [], **body}}


def lines(*requests: object) -> list[Line]:
    return list(lines_of_list(requests, 1 << 20))


def read_results(content: bytes) -> list[dict[str, Any]]:
    """Parse the lines of an output. Every line must be whole."""
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


def write_requests(path: Path, requests: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


@pytest.fixture
def input_path(tmp_path: Path) -> Path:
    """Five requests, r1 to r5."""
    return write_requests(tmp_path / "in.jsonl", [chat(f"r{number}") for number in range(1, 6)])
