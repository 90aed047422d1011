"""Prompts whose greedy answers quote them, and the share of an answer that is quoted."""

import random

_ITEMS = "lamps chairs mirrors blankets kettles clocks candles baskets ladders buckets bottles carpets".split()
_COLORS = "red green blue white black yellow brown grey".split()
_CITIES = "Lisbon Oslo Ankara Madrid Vienna Dublin Prague Athens".split()
_NAMES = "Anna Peter Maria Thomas Julia Martin Clara Simon".split()
_FIELDS = "price weight width height age score speed size".split()
# Words in a row that count as a quotation.
_RUN = 4


def quoting_prompts(count: int) -> list[str]:
    """Return so many prompts: programs and letters to copy, in turn. They are always the same."""
    kinds = (_code, _letter)
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


def _code(chance: random.Random) -> str:
    functions = [
        f"def {name}_of(item):\n    if item is None:\n        return {chance.randint(0, 9)}\n"
        f"    return item.{name} * {chance.randint(2, 99)}\n"
        for name in chance.sample(_FIELDS, 5)
    ]
    return "Repeat the following Python code exactly:\n\n```python\n" + "\n".join(functions) + "```"


def _letter(chance: random.Random) -> str:
    reader, other = chance.sample(_NAMES, 2)
    things = [f"{chance.choice(_COLORS)} {item}" for item in chance.sample(_ITEMS, 3)]
    cities = chance.sample(_CITIES, 3)
    lines = (
        f"Dear {reader},",
        f"I arrived in {cities[0]} on day {chance.randint(2, 28)} and found a room near the old market.",
        f"On the first morning I bought {chance.randint(2, 40)} {things[0]} and sent them to {cities[1]} by train.",
        f"Please tell {other} that the {things[1]} are still in the cellar, next to the {things[2]}.",
        f"The journey home takes {chance.randint(3, 30)} hours, so I will bring {chance.randint(2, 9)} books.",
        f"If it rains in {cities[2]}, we can meet at the station at {chance.randint(2, 11)} in the evening.",
        "Yours,",
    )
    return "Repeat the following letter exactly:\n\n" + "\n".join(lines)
