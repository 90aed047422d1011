"""The parts of a grammar in GBNF, and sets of characters."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

__all__ = [
    "ALL_CHARACTERS",
    "Choice",
    "Class",
    "Literal",
    "Node",
    "Reference",
    "Repeat",
    "Sequence",
    "all_in",
    "inner_nodes",
    "mask_of",
    "parts_of",
    "references",
    "union",
]

# A set of characters is a number with a bit for each ASCII character, and one for all others.
_OTHERS = 1 << 128
ALL_CHARACTERS = (1 << 129) - 1


class Literal(Struct, frozen=True):
    text: str


class Class(Struct, frozen=True):
    """One character of a class. `pattern` is the class in Rust's syntax."""

    pattern: str
    mask: int


class Reference(Struct, frozen=True):
    name: str


class Repeat(Struct, frozen=True):
    """`most` None is no limit."""

    node: Node
    least: int
    most: int | None


class Sequence(Struct, frozen=True):
    nodes: tuple[Node, ...]


class Choice(Struct, frozen=True):
    nodes: tuple[Node, ...]


Node = Literal | Class | Reference | Repeat | Sequence | Choice


def mask_of(first: int, last: int) -> int:
    """Return the set of the characters in a range."""
    ascii_part = ((1 << (min(last, 127) + 1)) - (1 << first)) if first < 128 else 0
    return ascii_part | (_OTHERS if last > 127 else 0)


def inner_nodes(node: Node) -> tuple[Node, ...]:
    match node:
        case Repeat(inner):
            return (inner,)
        case Sequence(nodes) | Choice(nodes):
            return nodes
    return ()


def all_in(node: Node) -> list[Node]:
    """Return a node and all in it, each behind those in it."""
    found = [node]
    for part in found:
        found += inner_nodes(part)
    return found[::-1]


def parts_of(node: Node) -> list[Node]:
    """Return the texts, classes and references in a node."""
    return [part for part in all_in(node) if isinstance(part, Literal | Class | Reference)]


def references(node: Node) -> set[str]:
    return {part.name for part in all_in(node) if isinstance(part, Reference)}


def union(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
