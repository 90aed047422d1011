"""How much work and memory one chat template may spend. Knows nothing of messages or HTTP.

A template comes with a model file, so it is a stranger's program. The sandbox keeps it from reaching Python; this
keeps it from taking the worker's time and memory:

| what                                | bound                  | kept by                       |
|-------------------------------------|------------------------|-------------------------------|
| loops, macros, blocks, recursion    | `timeout_s`            | `tick()` at every turn        |
| one text or list that is built      | `max_value` characters | `charge()` before it is       |
| all of them together                | `max_built` characters | `charge()`'s running total    |
| the rendered text                   | `max_value` characters | `joined()`, piece by piece    |
| a list that holds itself many times | `max_value` characters | `take()` before it is printed |

It is no wall: a template made for it can still hold `max_built` characters, or spend some seconds inside one filter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic

from jinja2.utils import Namespace

__all__ = ["Budget", "OverBudget", "TemplateLimits", "guard_format", "guard_method", "spending", "spent_by"]

# A list's slot is a pointer; counted as that many characters.
_SLOT = 8
# A bit of a product stands for more work than a character: two numbers of a million bits take a while.
_BIT = 64
_PERCENT_SPEC = re.compile(r"%[-+ #0-9.*]*")
_BRACE_SPEC = re.compile(r"\{[^{}]*:([^{}]*)\}")
_NESTED_SPEC = re.compile(r"\{[^{}]*:[^{}]*\{")


class OverBudget(Exception):
    """The template asked for more than `TemplateLimits` allow."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Far above any real prompt: a million tokens are about four million characters."""

    max_source: int = 1_000_000
    max_value: int = 16 * 2**20
    max_built: int = 2**30
    timeout_s: float = 5.0


class Budget:
    """What is left of the limits during one rendering. Used by the one thread that renders."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._deadline = monotonic() + limits.timeout_s
        self._built = 0
        self._n_charges = 0

    def tick(self) -> None:
        """Refuse to go on after the deadline."""
        if monotonic() > self._deadline:
            raise OverBudget(f"it ran for more than {self._limits.timeout_s:g} seconds")

    def charge(self, size: int) -> None:
        """Account for `size` characters about to be built, and now and then for the time so far."""
        self._n_charges += 1
        if size > 4096 or self._n_charges % 64 == 0:
            self.tick()
        if size > self._limits.max_value:
            raise OverBudget(f"it builds a value of more than {self._limits.max_value} characters")
        if size > 0:
            self._built += size
        if self._built > self._limits.max_built:
            raise OverBudget(f"it builds more than {self._limits.max_built} characters in all")

    def take(self, value: object) -> int:
        """Account for the text of `value`, before anything turns it into text; return its size."""
        size = self._text_size(value)
        self.charge(size)
        return size

    def joined(self, parts: Iterable[str]) -> str:
        """Join the pieces of a template's output, and stop as soon as they are too many."""
        pieces: list[str] = []
        size = 0
        for part in parts:
            size += len(part)
            if size > self._limits.max_value:
                self.charge(size)
            pieces.append(part)
        self.charge(size)
        return "".join(pieces)

    def _text_size(self, value: object) -> int:
        """Measure `str(value)` from below, without making it; stop counting above `max_value`."""
        if isinstance(value, str):
            return len(value)
        size, n_seen, pending = 0, 0, [value]
        while pending and size <= self._limits.max_value:
            item = pending.pop()
            n_seen += 1
            if n_seen % 4096 == 0:
                self.tick()
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, dict):
                size += 2 + len(item)
                pending.extend(item.keys())
                pending.extend(item.values())
            elif isinstance(item, (list, tuple, set, frozenset, MappingView)):
                size += 2 + len(item)
                pending.extend(item)  # type: ignore[arg-type]
            elif isinstance(item, Namespace):
                # It prints its attributes, which have no other way out.
                pending.append(object.__getattribute__(item, "_Namespace__attrs"))
            else:
                size += 1
        return size


_current: ContextVar[Budget] = ContextVar("template_budget")


@contextmanager
def spending(limits: TemplateLimits) -> Iterator[None]:
    """Give the code inside a fresh budget. A context variable, since filters have no other way to reach it."""
    token = _current.set(Budget(limits))
    try:
        yield
    finally:
        _current.reset(token)


def spent_by() -> Budget:
    """Return the budget of the rendering that runs in this thread."""
    return _current.get()


def _slots(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return _SLOT * len(value) if isinstance(value, (list, tuple)) else 0


def _guard_add(left: object, right: object) -> None:
    spent_by().charge(_slots(left) + _slots(right))


def _guard_multiply(left: object, right: object) -> None:
    if isinstance(left, int) and isinstance(right, int):
        spent_by().charge((left.bit_length() + right.bit_length()) * _BIT)
    elif isinstance(right, int):
        spent_by().charge(_slots(left) * right)
    elif isinstance(left, int):
        spent_by().charge(_slots(right) * left)


def _guard_power(left: object, right: object) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        spent_by().charge(left.bit_length() * right * _BIT)


def _guard_modulo(left: object, right: object) -> None:
    if isinstance(left, str):
        guard_format(left, right if isinstance(right, tuple) else (right,), {})


OPERATORS: Mapping[str, Callable[[object, object], None]] = {
    "+": _guard_add,
    "*": _guard_multiply,
    "**": _guard_power,
    "%": _guard_modulo,
}


def guard_format(pattern: str, args: Iterable[object], named: Mapping[str, object]) -> None:
    """Refuse a width that no prompt needs: `"%999999999d"`, `"{:>{width}}"`."""
    budget = spent_by()
    values = [*args, *named.values()]
    specs = "".join(_PERCENT_SPEC.findall(pattern)) + "".join(_BRACE_SPEC.findall(pattern))
    width = sum(int(digits[:12]) for digits in re.findall(r"\d+", specs))
    if "*" in specs or _NESTED_SPEC.search(pattern):
        width += sum(abs(value) for value in values if isinstance(value, int))
    budget.charge(width + len(pattern))
    for value in values:
        budget.take(value)


def guard_method(text: str, name: str, args: tuple[object, ...], named: Mapping[str, object]) -> tuple[object, ...]:
    """Account for `text.name(*args, **named)`; return the arguments to call it with."""
    budget = spent_by()
    if name == "join" and args and isinstance(args[0], Iterable):
        # An iterator can be walked only once, so what was measured is what is joined.
        parts = list(args[0])
        budget.take(parts)
        budget.charge(len(text) * len(parts))
        return (parts, *args[1:])
    if name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        budget.charge(len(text) + text.count(args[0]) * len(args[1]))
    elif name in ("center", "expandtabs", "ljust", "rjust", "zfill"):
        width = max((value for value in (*args, *named.values()) if isinstance(value, int)), default=0)
        budget.charge(len(text) + width * (1 + text.count("\t")))
    elif name in ("rsplit", "split", "splitlines"):
        budget.charge(len(text))
    return args
