"""Composes conversations without tools: mixed turns under a style, and turns that need memory."""

import random
from collections.abc import Callable
from dataclasses import replace

from tools.embedded import styles, topics
from tools.embedded.conversation import Conversation, Json, assistant, system, user
from tools.embedded.exchange import Exchange
from tools.embedded.lexicon import COLOURS, NAMES, PET_NAMES, PETS
from tools.embedded.styles import Style

TURN_COUNTS = (1, 2, 3, 4, 6)
TURN_WEIGHTS = (50, 22, 14, 9, 5)
LONG_SHARE = 0.025
LONG_TURNS = (14, 24)
FORGOTTEN_SHARE = 0.15


def styled(style: Style, exchange: Exchange) -> Exchange:
    """Answer in the style; a restyled combination gets a key of its own."""
    keys = exchange.keys
    if style.key:
        keys = (*keys, f"{style.key}/{exchange.topic}/{exchange.answer}")
    return replace(exchange, answer=style.apply(exchange), keys=keys)


def turn(rng: random.Random, style: Style, *, held_out: bool, topic: topics.Topic | None = None) -> Exchange:
    for _ in range(10_000):
        exchange = topics.draw(rng, held_out=False, topic=topic) if not held_out else _any(rng, topic)
        if style.accepts(exchange):
            exchange = styled(style, exchange)
            if exchange.is_held_out == held_out:
                return exchange
    raise ValueError(f"No turn found for style {style.name!r}.")


def _any(rng: random.Random, topic: topics.Topic | None) -> Exchange:
    chosen, weights = zip(*topics.WEIGHTED_TOPICS, strict=True)
    exchange: Exchange = (topic or rng.choices(chosen, weights)[0])(rng)
    return exchange


def messages_of(style: Style, exchanges: list[Exchange]) -> tuple[Json, ...]:
    pairs = [m for e in exchanges for m in (user(e.question), assistant(e.answer))]
    return (*system(style.system), *pairs)


def mixed(
    rng: random.Random,
    *,
    held_out: bool = False,
    style: Style | None = None,
    topic: topics.Topic | None = None,
    n_turns: int | None = None,
) -> Conversation:
    """Turns that do not need each other; only the last one may be held out."""
    style = style or styles.draw(rng)
    if n_turns is None:
        n_turns = rng.choices(TURN_COUNTS, TURN_WEIGHTS)[0]
        if rng.random() < LONG_SHARE:
            n_turns = rng.randint(*LONG_TURNS)
    earlier = [turn(rng, style, held_out=False) for _ in range(n_turns - 1)]
    last = turn(rng, style, held_out=held_out, topic=topic)
    category = last.topic if style.name in ("none", "plain") else f"style: {style.name}"
    return Conversation(category, messages_of(style, [*earlier, last]))


Memory = Callable[[random.Random], tuple[Exchange, Exchange]]


def _memory(
    told: str, reply: str, asked: str, recalled: str, value: str, keys: tuple[str, ...]
) -> tuple[Exchange, Exchange]:
    return (
        Exchange("memory", told, reply, keys),
        Exchange("memory", asked, recalled, keys, one_word=value if " " not in value else None),
    )


def name(rng: random.Random) -> tuple[Exchange, Exchange]:
    who = rng.choice(NAMES)
    told = rng.choice(("My name is {x}.", "I am {x}.", "Call me {x}.", "Hello, my name is {x}."))
    asked = rng.choice(("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?"))
    reply, recalled = f"Nice to meet you, {who}!", f"Your name is {who}."
    return _memory(told.format(x=who), reply, asked, recalled, who, (f"name/{who}/{told}",))


def colour(rng: random.Random) -> tuple[Exchange, Exchange]:
    value = rng.choice(COLOURS)
    told = rng.choice(("My favourite colour is {x}.", "I like the colour {x}.", "I love {x}."))
    asked = rng.choice(("What is my favourite colour?", "Which colour do I like?"))
    reply, recalled = f"I like {value} too.", f"Your favourite colour is {value}."
    return _memory(told.format(x=value), reply, asked, recalled, value, (f"colour/{value}/{told}",))


def number(rng: random.Random) -> tuple[Exchange, Exchange]:
    value = str(rng.randint(10, 99))
    told = rng.choice(("Remember the number {x}.", "My number is {x}.", "Please remember {x}."))
    asked = rng.choice(("Which number did I give you?", "What was my number?", "What is my number?"))
    reply, recalled = f"I will remember {value}.", f"Your number is {value}."
    return _memory(told.format(x=value), reply, asked, recalled, value, (f"number/{value}",))


def pet(rng: random.Random) -> tuple[Exchange, Exchange]:
    animal, called = rng.choice(PETS), rng.choice(PET_NAMES)
    told = rng.choice(("I have a {a} called {x}.", "My {a} is called {x}."))
    asked = f"What is my {animal} called?"
    reply, recalled = f"{called} is a nice name for a {animal}.", f"Your {animal} is called {called}."
    keys = (f"pet/{animal}/{called}",)
    return _memory(told.format(a=animal, x=called), reply, asked, recalled, called, keys)


def secret(rng: random.Random) -> tuple[Exchange, Exchange]:
    word = topics.any_word(rng)
    told = rng.choice(("The secret word is {x}.", "My password is {x}.")).format(x=word)
    noun = "secret word" if "secret" in told else "password"
    asked = f"What is {'the' if noun == 'secret word' else 'my'} {noun}?"
    return _memory(told, "I will keep it.", asked, f"It is {word}.", word, (f"secret/{word}",))


MEMORIES: tuple[Memory, ...] = (name, name, colour, number, pet, secret)
# There are too few colours for the split to hold any of them out.
HELD_OUT_MEMORIES: tuple[Memory, ...] = (name, number, pet, secret)
FORGOTTEN = (
    ("What is my name?", "You have not told me your name."),
    ("Do you remember my name?", "You have not told me your name."),
    ("What is my favourite colour?", "You have not told me your favourite colour."),
    ("Which number did I give you?", "You have not given me a number."),
)


def remembering(rng: random.Random, *, held_out: bool = False, n_fillers: int | None = None) -> Conversation:
    """Return a conversation whose first message has one or two facts, on which the last answers depend."""
    style = styles.draw(rng) if rng.random() < 0.3 else styles.NO_STYLE
    while style.name == "one word":
        style = styles.draw(rng)
    if not held_out and rng.random() < FORGOTTEN_SHARE:
        return _forgotten(rng, style)
    facts = _facts(rng, held_out, n_facts=2 if rng.random() < 0.35 else 1)
    if n_fillers is None:
        n_fillers = rng.choice((0, 0, 1, 1, 2, 3, 4, 6))
        if rng.random() < LONG_SHARE * 2:
            n_fillers = rng.randint(*LONG_TURNS)
    fillers = [turn(rng, style, held_out=False) for _ in range(n_fillers)]
    recalls = [styled(style, fact[1]) for fact in facts]
    rng.shuffle(recalls)
    told = [styled(style, fact[0]) for fact in facts]
    return Conversation("memory", messages_of(style, [*told, *fillers, *recalls]))


def _facts(rng: random.Random, held_out: bool, n_facts: int) -> list[tuple[Exchange, Exchange]]:
    facts: list[tuple[Exchange, Exchange]] = []
    kinds = rng.sample(HELD_OUT_MEMORIES if held_out else MEMORIES[1:], n_facts)
    while len(facts) < n_facts:
        fact = kinds[len(facts)](rng)
        if fact[1].is_held_out == held_out:
            facts.append(fact)
    return facts


def _forgotten(rng: random.Random, style: Style) -> Conversation:
    fillers = [turn(rng, style, held_out=False) for _ in range(rng.randrange(3))]
    question, answer = rng.choice(FORGOTTEN)
    last = styled(style, Exchange("memory", question, answer))
    return Conversation("memory", messages_of(style, [*fillers, last]))


FIRST_PHRASINGS = ("What did I say first?", "What was my first message?", "Repeat my first message.")


def recounting(rng: random.Random, *, held_out: bool = False, n_turns: int | None = None) -> Conversation:
    """Return a conversation whose last answer repeats the first message word for word."""
    style = styles.plain(rng) if rng.random() < 0.3 else styles.NO_STYLE
    n_turns = n_turns or rng.choice((1, 1, 2, 3, 4))
    first = turn(rng, style, held_out=held_out)
    while first.topic in ("long story", "short story"):
        first = turn(rng, style, held_out=held_out)
    later = [turn(rng, style, held_out=False) for _ in range(n_turns - 1)]
    last = Exchange("recount", rng.choice(FIRST_PHRASINGS), f"You said: {first.question}")
    return Conversation("recount", messages_of(style, [first, *later, last]))
