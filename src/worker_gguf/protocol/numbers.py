"""Whole numbers in JSON: 40.0 is the integer 40, because clients in several languages write all numbers as floats."""

from __future__ import annotations

__all__ = ["integer", "integers"]


def integer(value: object) -> object:
    """Convert a whole float to an integer. Returns any other value as it is, for the check of types."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integers(value: object) -> object:
    """Convert the whole floats of a list to integers."""
    # One pass in C, because there may be a million token ids.
    return [integer(item) for item in value] if isinstance(value, list) and float in set(map(type, value)) else value
