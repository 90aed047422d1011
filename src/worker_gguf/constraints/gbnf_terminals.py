"""Decides which rules of a grammar can be terminals, which llguidance matches as one regular expression.

llguidance takes the longest text that a terminal matches. That is wrong where the text behind it could begin with a
character by which the terminal could go on: `[0-9]+ [ \\n]*` in front of a newline. Such a rule is parsed instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

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
    "divided_texts",
    "mask_of",
    "terminals",
]

# A set of characters is a number with a bit for each ASCII character, and one for all others.
_OTHERS = 1 << 128
ALL_CHARACTERS = (1 << 129) - 1


# After so many, all rules are parsed. Most grammars need one or two.
_MOST_ROUNDS = 8


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


def terminals(rules: Mapping[str, Node]) -> set[str]:
    """Return the rules that can be terminals: they do not lead back to themselves, and the longest match is right."""
    order: list[str] = []
    found: set[str] = set()
    uses = {name: set(_references(node)) for name, node in rules.items()}
    while more := {name for name in rules if name not in found and uses[name] <= found}:
        found |= more
        order += sorted(more)
    if "root" in found:
        return found
    facts = _Facts(rules, order)
    for _ in range(_MOST_ROUNDS):
        wrong = _wrong(rules, found, facts)
        if not wrong:
            return found
        while more := {name for name in found - wrong if uses[name] & wrong}:
            wrong |= more
        found -= wrong
    return set()


def _wrong(rules: Mapping[str, Node], found: set[str], facts: _Facts) -> set[str]:
    """Return the terminals that could take too much, or be taken for a character of a class beside them."""
    parsed = [name for name in rules if name not in found]
    follows = facts.follows(parsed)
    parts = [part for name in parsed for part in _parts(rules[name])]
    classes = _union(part.mask for part in parts if isinstance(part, Class))
    used = {part.name for part in parts if isinstance(part, Reference)} & found
    return {
        name for name in used if facts.extensions(rules[name]) & follows[name] or facts.first(rules[name]) & classes
    }


def divided_texts(rules: Mapping[str, Node], found: set[str]) -> set[str]:
    """Return the texts that must be written character by character in the rules that are not terminals.

    In front of "abc" or [a-z], llguidance follows "abc" beyond its first character and cannot come back.
    """
    facts = _Facts(rules)
    parts = [part for name in rules.keys() - found for part in _parts(rules[name])]
    beside: dict[int, set[Node]] = {}
    for part in parts:
        if not isinstance(part, Reference) or part.name in found:
            for bit in _bits(facts.first(part)):
                beside.setdefault(bit, set()).add(part)
    # A terminal that is longer than the first character would win against it.
    divided = {bit for bit, at in beside.items() if len(at) > 1 and not any(isinstance(part, Reference) for part in at)}
    texts = (part.text for part in parts if isinstance(part, Literal) and len(part.text) > 1)
    return {text for text in texts if mask_of(ord(text[0]), ord(text[0])).bit_length() in divided}


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(1, mask.bit_length() + 1) if mask >> (bit - 1) & 1]


def _parts(node: Node) -> list[Node]:
    """Return the texts, classes and references in a node."""
    match node:
        case Repeat(inner):
            return _parts(inner)
        case Sequence(nodes) | Choice(nodes):
            return [part for inner in nodes for part in _parts(inner)]
    return [node]


def _references(node: Node) -> list[str]:
    return [part.name for part in _parts(node) if isinstance(part, Reference)]


class _Facts:
    """What the parts of a grammar can begin with, whether they can be empty, and what can follow them."""

    def __init__(self, rules: Mapping[str, Node], regular: Collection[str] = ()) -> None:
        """`regular` are rules that do not lead back to themselves, each behind those that it uses."""
        self._rules = rules
        self._empty = dict.fromkeys(rules, False)
        self._first = dict.fromkeys(rules, 0)
        # The regular rules come first, since others use them. Most grammars are written in one of the two directions.
        order = list(dict.fromkeys([*regular, *[*rules][::-1], *rules]))
        changed = True
        while changed:
            before = (dict(self._empty), dict(self._first))
            for name in order:
                self._empty[name] = self.can_be_empty(rules[name])
                self._first[name] = self.first(rules[name])
            changed = before != (self._empty, self._first)
            order.reverse()
        self._extensions: dict[str, int] = {}
        self._all: dict[str, int] = {}
        for name in regular:
            self._extensions[name] = self.extensions(rules[name])
            self._all[name] = self._characters(rules[name])

    def can_be_empty(self, node: Node) -> bool:
        match node:
            case Literal(text):
                return not text
            case Class():
                return False
            case Reference(name):
                return self._empty[name]
            case Repeat(inner, least):
                return least == 0 or self.can_be_empty(inner)
            case Sequence(nodes):
                return all(map(self.can_be_empty, nodes))
            case Choice(nodes):
                return any(map(self.can_be_empty, nodes))

    def first(self, node: Node) -> int:
        """Return the characters that a text of the node can begin with."""
        match node:
            case Literal(text):
                return mask_of(ord(text[0]), ord(text[0])) if text else 0
            case Class(mask=mask):
                return mask
            case Reference(name):
                return self._first[name]
            case Repeat(inner, most=most):
                return 0 if most == 0 else self.first(inner)
            case Sequence(nodes):
                return self._first_of(nodes)
            case Choice(nodes):
                return _union(map(self.first, nodes))

    def _first_of(self, nodes: tuple[Node, ...]) -> int:
        found = 0
        for node in nodes:
            found |= self.first(node)
            if not self.can_be_empty(node):
                break
        return found

    def extensions(self, node: Node) -> int:
        """Return the characters by which a complete text of a node may go on. Some of them may be too many."""
        match node:
            case Literal() | Class():
                return 0
            case Reference(name):
                return self._extensions[name]
            case Repeat(inner, least, most):
                return self.extensions(inner) | (0 if least == most else self.first(inner))
            case Sequence(nodes):
                return self._extensions_of(nodes)
            case Choice(nodes):
                return _union(map(self.extensions, nodes)) | self._overlap(nodes)

    def _extensions_of(self, nodes: tuple[Node, ...]) -> int:
        for number, node in enumerate(nodes):
            # This node may take over what begins the rest, and then the rest comes later.
            if self.extensions(node) & self._first_of(nodes[number + 1 :]):
                return _union(map(self._characters, nodes))
        found = 0
        for node in reversed(nodes):
            found |= self.extensions(node)
            if not self.can_be_empty(node):
                break
            found |= self.first(node)
        return found

    def _overlap(self, nodes: tuple[Node, ...]) -> int:
        """A text of one alternative may be the beginning of one of another, which then goes on."""
        found = _union(self.first(node) for node in nodes) if any(map(self.can_be_empty, nodes)) else 0
        seen = 0
        for node in nodes:
            if self.first(node) & seen:
                return _union(map(self._characters, nodes))
            seen |= self.first(node)
        return found

    def _characters(self, node: Node) -> int:
        """Return all characters of a node's texts."""
        match node:
            case Literal(text):
                return _union(mask_of(ord(char), ord(char)) for char in text)
            case Class(mask=mask):
                return mask
            case Reference(name):
                return self._all[name]
            case Repeat(inner):
                return self._characters(inner)
            case Sequence(nodes) | Choice(nodes):
                return _union(map(self._characters, nodes))

    def follows(self, parsed: Collection[str]) -> dict[str, int]:
        """Return the characters that can follow each rule, where the rules `parsed` use it."""
        found = dict.fromkeys(self._rules, 0)
        changed = True
        while changed:
            before = dict(found)
            for name in parsed:
                self._follow(self._rules[name], found[name], found)
            changed = before != found
            parsed = [*parsed][::-1]
        return found

    def _follow(self, node: Node, after: int, found: dict[str, int]) -> None:
        match node:
            case Reference(name):
                found[name] |= after
            case Repeat(inner, most=most):
                self._follow(inner, after | (self.first(inner) if most != 1 else 0), found)
            case Sequence(nodes):
                for inner in reversed(nodes):
                    self._follow(inner, after, found)
                    after = self.first(inner) | (after if self.can_be_empty(inner) else 0)
            case Choice(nodes):
                for inner in nodes:
                    self._follow(inner, after, found)
            case _:
                pass


def _union(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
