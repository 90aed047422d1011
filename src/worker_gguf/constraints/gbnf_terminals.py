"""Decides which rules of a grammar can be terminals, which llguidance matches as one regular expression.

llguidance takes the longest text that a terminal matches. That is wrong where the text behind it could begin with a
character by which the terminal could go on: `[0-9]+ [ \\n]*` in front of a newline. Such a rule is parsed instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker_gguf.constraints.gbnf_facts import Facts
from worker_gguf.constraints.gbnf_nodes import Class, Literal, Node, Reference, mask_of, parts_of, references, union

__all__ = ["planned"]

# After so many, all rules are parsed. Most grammars need one or two.
_MOST_ROUNDS = 8


def planned(rules: Mapping[str, Node]) -> tuple[set[str], set[str]]:
    """Return the rules that can be terminals, and the texts to divide in the others: see `_divided_texts`."""
    uses = {name: references(node) for name, node in rules.items()}
    order = _regular(uses)
    if "root" in order:
        return set(order), set()
    facts = Facts(rules, order)
    found = _terminals(rules, uses, set(order), facts)
    return found, _divided_texts(rules, found, facts)


def _regular(uses: Mapping[str, set[str]]) -> list[str]:
    """Return the rules that do not lead back to themselves, each behind those that it uses."""
    missing = {name: len(used) for name, used in uses.items()}
    users = _turned(uses)
    order = [name for name, number in missing.items() if not number]
    for name in order:
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                order.append(user)
    return order


def _turned(uses: Mapping[str, set[str]]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {name: [] for name in uses}
    for name, used in uses.items():
        for other in used:
            users[other].append(name)
    return users


def _terminals(rules: Mapping[str, Node], uses: Mapping[str, set[str]], found: set[str], facts: Facts) -> set[str]:
    """Return those of the regular rules for which the longest match is right."""
    users = _turned(uses)
    for _ in range(_MOST_ROUNDS):
        todo = list(wrong := _wrong(rules, found, facts))
        if not wrong:
            return found
        while todo:
            more = [name for name in users[todo.pop()] if name in found and name not in wrong]
            wrong.update(more)
            todo += more
        found -= wrong
    return set()


def _wrong(rules: Mapping[str, Node], found: set[str], facts: Facts) -> set[str]:
    """Return the terminals that could take too much, or be taken for a character of a class beside them."""
    parsed = [name for name in rules if name not in found]
    follows = facts.follows(parsed)
    parts = [part for name in parsed for part in parts_of(rules[name])]
    classes = union(part.mask for part in parts if isinstance(part, Class))
    used = {part.name for part in parts if isinstance(part, Reference)} & found
    return {
        name for name in used if facts.extensions(rules[name]) & follows[name] or facts.first(rules[name]) & classes
    }


def _divided_texts(rules: Mapping[str, Node], found: set[str], facts: Facts) -> set[str]:
    """Return the texts that must be written character by character in the rules that are not terminals.

    In front of "abc" or [a-z], llguidance follows "abc" beyond its first character and cannot come back.
    """
    # Equal parts count once.
    parts = {part for name in rules.keys() - found for part in parts_of(rules[name])}
    beside: dict[int, list[Node]] = {}
    for part in parts:
        if not isinstance(part, Reference) or part.name in found:
            for bit in _bits(facts.first(part)):
                beside.setdefault(bit, []).append(part)
    # A terminal that is longer than the first character would win against it.
    divided = {bit for bit, at in beside.items() if len(at) > 1 and not any(isinstance(part, Reference) for part in at)}
    texts = (part.text for part in parts if isinstance(part, Literal) and len(part.text) > 1)
    return {text for text in texts if mask_of(ord(text[0]), ord(text[0])).bit_length() in divided}


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(1, mask.bit_length() + 1) if mask >> (bit - 1) & 1]
