"""Prompts whose greedy answers quote them, and the share of an answer that is quoted."""

import random

_ITEMS = "lamps chairs mirrors blankets kettles clocks candles baskets ladders buckets bottles carpets".split()
_COLORS = "red green blue white black yellow brown grey".split()
_CITIES = "Lisbon Oslo Ankara Madrid Vienna Dublin Prague Athens".split()
_FIELDS = "price weight width height age score speed size".split()
# Words in a row that count as a quotation.
_RUN = 4


def quoting_prompts(count: int) -> list[str]:
    """Return so many prompts: lists, letters and programs to copy, in turn. They are always the same."""
    kinds = (_list, _code)
    return [kinds[n % len(kinds)](random.Random(n)) for n in range(count)]


def quoted_share(answer: str, prompt: str) -> float:
    """Return the share of the answer's words that stand in a row of four or more words of the prompt."""
    said, given = answer.split(), prompt.split()
    known = {tuple(given[n : n + _RUN]) for n in range(len(given) - _RUN + 1)}
    quoted = [False] * len(said)
    for n in range(len(said) - _RUN + 1):
        if tuple(said[n : n + _RUN]) in known:
            quoted[n : n + _RUN] = [True] * _RUN
    return sum(quoted) / len(said) if said else 0.0


def _list(chance: random.Random) -> str:
    lines = [
        f"{n}. {chance.randint(2, 99)} {chance.choice(_COLORS)} {item} for the shop in {chance.choice(_CITIES)}"
        for n, item in enumerate(chance.sample(_ITEMS, 10), 1)
    ]
    return "Repeat the following list exactly, line by line:\n\n" + "\n".join(lines)


def _code(chance: random.Random) -> str:
    functions = [
        f"def {name}_of(item):\n    if item is None:\n        return {chance.randint(0, 9)}\n"
        f"    return item.{name} * {chance.randint(2, 99)}\n"
        for name in chance.sample(_FIELDS, 5)
    ]
    return "Repeat the following Python code exactly:\n\n```python\n" + "\n".join(functions) + "```"
