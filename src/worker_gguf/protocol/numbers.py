"""Whole numbers as JSON has them: 40.0 is the integer 40. Clients of several languages write all numbers so."""

from __future__ import annotations

__all__ = ["integer", "integers"]


def integer(value: object) -> object:
    """Turn a whole float into an integer; leave any other value to the check of types."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def integers(value: object) -> object:
    """Turn the whole floats of a list into integers."""
    # One pass in C over what may be a million token ids.
    return [integer(item) for item in value] if isinstance(value, list) and float in set(map(type, value)) else value
