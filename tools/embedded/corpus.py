"""The mixture: which kinds of conversation are drawn, how often, from which seed."""

import random
from collections.abc import Callable, Iterator

from tools.embedded import chat, styles, tool_use, topics
from tools.embedded.conversation import Conversation

Kind = Callable[[random.Random], Conversation]

MIXTURE: tuple[tuple[Kind, float], ...] = (
    (chat.mixed, 0.60),
    (chat.remembering, 0.18),
    (chat.recounting, 0.03),
    (tool_use.calling, 0.09),
    (tool_use.resulting, 0.05),
    (tool_use.refraining, 0.05),
)

HELD_OUT_TOPICS: tuple[topics.Topic, ...] = (
    topics.capital, topics.country, topics.addition, topics.difference, topics.reverse,
    topics.spell, topics.echo, topics.count, topics.unknown,
)  # fmt: skip


def training(seed: int, n_conversations: int) -> Iterator[Conversation]:
    """Yield the same conversations for the same seed; none of them holds a held-out key."""
    rng = random.Random(seed)
    kinds, weights = zip(*MIXTURE, strict=True)
    for _ in range(n_conversations):
        yield rng.choices(kinds, weights)[0](rng)


def held_out(seed: int, n_each: int) -> Iterator[Conversation]:
    """Yield `n_each` conversations of every category whose last answer was never trained on."""
    rng = random.Random(f"held out {seed}")
    for _ in range(n_each):
        for topic in HELD_OUT_TOPICS:
            yield chat.mixed(rng, held_out=True, style=styles.NO_STYLE, topic=topic, n_turns=1)
        for style in styles.STYLES:
            yield chat.mixed(rng, held_out=True, style=style(rng), n_turns=rng.choice((1, 2)))
        yield chat.remembering(rng, held_out=True)
        yield chat.recounting(rng, held_out=True)
        yield tool_use.calling(rng, held_out=True)
        yield tool_use.resulting(rng, held_out=True)
        yield tool_use.refraining(rng, held_out=True)
