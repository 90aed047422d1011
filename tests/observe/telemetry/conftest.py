"""A collector for each test, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `otel`")

Spans = list[dict[str, Any]]


@dataclass(frozen=True)
class Receiver:
    url: str

    def received(self) -> dict[str, Spans]:
        got: dict[str, Spans] = httpx.get(f"{self.url}/received", trust_env=False).json()
        return got

    def spans(self, is_enough: Callable[[Spans], bool]) -> Spans:
        """Return the received spans once there are enough, because the exporter decides when to send."""
        deadline_s = time.monotonic() + 15
        while not is_enough(spans := self.received()["spans"]):
            assert time.monotonic() < deadline_s, [span["name"] for span in spans]
            time.sleep(0.02)
        return spans


@pytest.fixture
def collector() -> Iterator[Receiver]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.observe.telemetry.collector"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Receiver(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.terminate()
