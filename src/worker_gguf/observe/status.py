"""The states of a worker, with their names in /health and the metrics."""

from __future__ import annotations

from typing import Literal

__all__ = ["Status"]

Status = Literal["starting", "ready", "reloading", "draining", "stopped", "failed"]
