"""Finds out what the parts of a grammar in GBNF can begin with, and what can come behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Sequence as Listed
from typing import TypeVar

from worker_gguf.constraints.gbnf_nodes import (
    Choice,
    Class,
    Literal,
    Node,
    Reference,
    Repeat,
    Sequence,
    all_in,
    inner_nodes,
    mask_of,
    union,
)

__all__ = ["Facts"]

_Key = TypeVar("_Key", int, str)


class Facts:
    """What the parts of a grammar can begin with, whether they can be empty, and what can follow them.

    Each fact of each node is found only once. They are kept by the nodes' ids.
    """

    def __init__(self, rules: Mapping[str, Node], regular: Collection[str]) -> None:
        """`regular` are rules that do not lead back to themselves, each behind those that they use."""
        self._rules = rules
        nodes = [part for node in rules.values() for part in all_in(node)]
        self._empty = self._all_empty(nodes)
        self._first = _gathered(
            {id(node): _own_first(node) for node in nodes},
            {id(node): [id(source) for source in self._beginnings(node)] for node in nodes},
        )
        self._extensions: dict[int, int] = {}
        self._characters: dict[int, int] = {}
        for name in regular:
            for node in all_in(rules[name]):
                self._extensions[id(node)] = self._extensions_of(node)
                self._characters[id(node)] = self._characters_of(node)

    def first(self, node: Node) -> int:
        """Return the characters that a text of the node can begin with."""
        return self._first[id(node)]

    def extensions(self, node: Node) -> int:
        """Return the characters by which a complete text of a node may go on. Some of them may be too many."""
        return self._extensions[id(node)]

    def _all_empty(self, nodes: list[Node]) -> set[int]:
        """Return the ids of the nodes that can be empty."""
        missing: dict[int, int] = {}  # How many nodes must yet be found to be empty, so that this one is.
        users: dict[int, list[int]] = {}
        for node in nodes:
            match node:
                case Class():
                    continue
                case Literal(text):
                    missing[id(node)] = 1 if text else 0
                case Repeat(least=0):
                    missing[id(node)] = 0
                case Sequence(inner):
                    missing[id(node)] = len(inner)
                case _:
                    missing[id(node)] = 1
            for part in self._sources(node):
                users.setdefault(id(part), []).append(id(node))
        found = [node for node, number in missing.items() if not number]
        for node_id in found:
            for user in users.get(node_id, ()):
                missing[user] -= 1
                if not missing[user]:
                    found.append(user)
        return set(found)

    def _sources(self, node: Node) -> tuple[Node, ...]:
        return (self._rules[node.name],) if isinstance(node, Reference) else inner_nodes(node)

    def _beginnings(self, node: Node) -> Listed[Node]:
        """Return the nodes with whose first characters a node can begin."""
        sources = self._sources(node)
        if isinstance(node, Repeat) and node.most == 0:
            return ()
        if isinstance(node, Sequence):
            end = next((number for number, part in enumerate(sources, 1) if id(part) not in self._empty), len(sources))
            return sources[:end]
        return sources

    def _extensions_of(self, node: Node) -> int:
        match node:
            case Literal() | Class():
                return 0
            case Reference(name):
                return self.extensions(self._rules[name])
            case Repeat(inner, least, most):
                return self.extensions(inner) | (0 if least == most else self.first(inner))
            case Sequence(nodes):
                return self._extensions_of_sequence(nodes)
            case Choice(nodes):
                return union(map(self.extensions, nodes)) | self._overlap(nodes)

    def _extensions_of_sequence(self, nodes: tuple[Node, ...]) -> int:
        found = 0
        rest = 0  # What the nodes behind this one can begin with.
        are_empty = True
        for node in reversed(nodes):
            # This node may take over what begins the rest, and then the rest comes later.
            if self.extensions(node) & rest:
                return union(self._characters[id(part)] for part in nodes)
            is_empty = id(node) in self._empty
            if are_empty:
                found |= self.extensions(node) | (self.first(node) if is_empty else 0)
            are_empty = are_empty and is_empty
            rest = self.first(node) | (rest if is_empty else 0)
        return found

    def _overlap(self, nodes: tuple[Node, ...]) -> int:
        """A text of one alternative may be the beginning of one of another, which then goes on."""
        found = union(map(self.first, nodes)) if any(id(node) in self._empty for node in nodes) else 0
        seen = 0
        for node in nodes:
            if self.first(node) & seen:
                return union(self._characters[id(part)] for part in nodes)
            seen |= self.first(node)
        return found

    def _characters_of(self, node: Node) -> int:
        """Return all characters of a node's texts."""
        match node:
            case Literal(text):
                return union(mask_of(ord(char), ord(char)) for char in text)
            case Class(mask=mask):
                return mask
        return union(self._characters[id(part)] for part in self._sources(node))

    def follows(self, parsed: Collection[str]) -> dict[str, int]:
        """Return the characters that can follow each rule, where the rules `parsed` use it."""
        masks = dict.fromkeys(self._rules, 0)
        ends: dict[str, list[str]] = {name: [] for name in self._rules}
        for name in parsed:
            for used, after, is_end in self._followed(self._rules[name]):
                masks[used] |= after
                if is_end:
                    ends[used].append(name)
        return _gathered(masks, ends)

    def _followed(self, root: Node) -> list[tuple[str, int, bool]]:
        """Return the references in a node, what can follow each inside it, and whether the node can end there."""
        found: list[tuple[str, int, bool]] = []
        todo: list[tuple[Node, int, bool]] = [(root, 0, True)]
        while todo:
            node, after, is_end = todo.pop()
            match node:
                case Reference(name):
                    found.append((name, after, is_end))
                case Repeat(inner, most=most):
                    todo.append((inner, after | (self.first(inner) if most != 1 else 0), is_end))
                case Sequence(nodes):
                    for inner in reversed(nodes):
                        todo.append((inner, after, is_end))
                        is_empty = id(inner) in self._empty
                        after = self.first(inner) | (after if is_empty else 0)
                        is_end = is_end and is_empty
                case Choice(nodes):
                    todo += [(inner, after, is_end) for inner in nodes]
                case _:
                    pass
        return found


def _own_first(node: Node) -> int:
    match node:
        case Literal(text):
            return mask_of(ord(text[0]), ord(text[0])) if text else 0
        case Class(mask=mask):
            return mask
    return 0


def _gathered(masks: Mapping[_Key, int], sources: Mapping[_Key, Listed[_Key]]) -> dict[_Key, int]:
    """Return for each key the union of its mask and those of all keys to which its sources lead.

    _Keys that lead to each other have the same union, so this finds those (Tarjan's algorithm).
    """
    found = dict(masks)
    numbers: dict[_Key, int] = {}
    lowest: dict[_Key, int] = {}
    open_keys: list[_Key] = []
    for root in masks:
        todo = [] if root in numbers else [(root, iter(sources[root]))]
        while todo:
            key, left = todo[-1]
            if key not in numbers:
                numbers[key] = lowest[key] = len(numbers)
                open_keys.append(key)
            for source in left:
                if source not in numbers:
                    todo.append((source, iter(sources[source])))
                    break
                lowest[key] = min(lowest[key], lowest[source])
                found[key] |= found[source]
            else:
                todo.pop()
                if lowest[key] == numbers[key]:
                    member = None
                    while member != key:
                        member = open_keys.pop()
                        lowest[member] = len(masks)
                        found[member] = found[key]
                if todo:
                    above = todo[-1][0]
                    lowest[above] = min(lowest[above], lowest[key])
                    found[above] |= found[key]
    return found
