"""The states of a worker, as /health and the metrics name them."""

from __future__ import annotations

from typing import Literal

__all__ = ["Status"]

Status = Literal["starting", "ready", "draining", "stopped", "failed"]
