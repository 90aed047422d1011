"""Converts whole floats to integers. In JSON, 40.0 is the integer 40, and some languages write all numbers so."""

from __future__ import annotations

__all__ = ["integer", "integers"]


def integer(value: object) -> object:
    """Convert a whole float to an integer. Returns any other value unchanged, for the type check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integers(value: object) -> object:
    """Convert the whole floats in a list to integers."""
    # The check is one pass in C, because the list may have a million token ids.
    return [integer(item) for item in value] if isinstance(value, list) and float in set(map(type, value)) else value
