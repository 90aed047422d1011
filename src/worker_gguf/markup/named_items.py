"""A grammar of named items that come in any order, each at most once and the required ones always."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from worker_gguf.markup.lark import LarkGrammar, either

__all__ = ["Item", "items_in_any_order"]

# A rule's parameter is a number of 64 bits, each of which tells that an item has been written.
_MOST_BITS = 64
_NEVER = "never"


class Item(NamedTuple):
    """An item as expressions of Lark: the whole of it, or, for one whose end can only be told from what follows it,
    `before_more` up to the beginning of the next item and `before_close` up to the end of the close."""

    whole: str = ""
    before_more: str = ""
    before_close: str = ""
    is_required: bool = False


def items_in_any_order(
    grammar: LarkGrammar, items: Sequence[Item], *, others: Item | None, first: str, between: str, close: str
) -> str:
    """Return an expression for all items up to `close`, which comes after the last one.

    `first` comes before the first item and `between` before each further one. `others` may come any number of times.
    Of more than 64 items, those that come last may be missing though they are required, or come twice.
    """
    if not items and others is None:
        return close
    ordered = sorted(items, key=lambda item: not item.is_required)
    n_bits = min(len(ordered), _MOST_BITS)
    n_required = sum(item.is_required for item in ordered[:n_bits])
    is_open = others is not None or len(ordered) > n_bits
    item, following = grammar.reserve(), grammar.reserve()
    options: list[str] = []
    for bit, one in enumerate(ordered[:n_bits]):
        rest = "" if is_open else _unless_all(n_bits, bit)
        ending = _conditions(n_required, bit)
        options += _options(one, item, following, f"set_bit({bit})", f"bit_clear({bit})", rest, ending)
    for one in [*ordered[n_bits:], *([others] if others else [])]:
        options += _options(one, item, following, "_", "", "", _conditions(n_required))
    grammar.define_with_number(item, options)
    more = "" if is_open else f" %if not(is_ones([0:{n_bits}]))"
    ends = f" %if is_ones([0:{n_required}])" if n_required else ""
    grammar.define_with_number(following, [f"{between} {item}::_{more}", f"{close}{ends}"])
    start = f"{first} {item}::0x0"
    return start if n_required else either([start, close])


def _options(one: Item, item: str, following: str, number: str, clear: str, rest: str, ending: str) -> Iterator[str]:
    """Yield the options for one item: `number` is the parameter after it, the others are conditions."""
    if one.whole:
        yield f"{one.whole} {following}::{number}{_if(clear)}"
    if one.before_more and rest != _NEVER:
        yield f"{one.before_more} {item}::{number}{_if(clear, rest)}"
    if one.before_close:
        yield f"{one.before_close}{_if(clear, ending)}"


def _conditions(n_required: int, but: int | None = None) -> str:
    """Return the condition that all required items were written, except perhaps number `but`."""
    if but is None or but >= n_required:
        return f"is_ones([0:{n_required}])" if n_required else ""
    ranges = [(0, but), (but + 1, n_required)]
    return _all(*(f"is_ones([{start}:{end}])" for start, end in ranges if end > start))


def _unless_all(n_bits: int, but: int) -> str:
    """Return the condition that an item other than number `but` was not written."""
    others = _conditions(n_bits, but)
    return f"not({others})" if others else _NEVER


def _all(*conditions: str) -> str:
    combined = ""
    for condition in filter(None, conditions):
        combined = f"and({combined}, {condition})" if combined else condition
    return combined


def _if(*conditions: str) -> str:
    combined = _all(*conditions)
    return f" %if {combined}" if combined else ""
