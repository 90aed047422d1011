"""Requests and listings that users reported as failing elsewhere: one JSON file per number, next to the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SHARED", "read_case"]

SHARED = Path(__file__).resolve().parents[2] / "shared"


def read_case(number: int) -> dict[str, Any]:
    """Read a case, or skip the test where the folder is not there."""
    paths = list((SHARED / "cases").glob(f"{number:02}-*.json"))
    if not paths:
        pytest.skip(f"case {number} is not here: it comes with the shared folder beside the repository")
    case: dict[str, Any] = json.loads(paths[0].read_text("utf-8"))
    return case
