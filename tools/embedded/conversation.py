"""A conversation as the chat template takes it, with the name of what its last answer shows."""

from dataclasses import dataclass
from typing import Any

# A message or a tool definition is JSON: this module is the boundary where it stays so.
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    category: str
    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()

    @property
    def prompt(self) -> tuple[Json, ...]:
        return self.messages[:-1]

    @property
    def last_answer(self) -> str:
        return str(self.messages[-1]["content"])


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def assistant(content: str) -> Json:
    return {"role": "assistant", "content": content}


def system(content: str | None) -> list[Json]:
    return [] if content is None else [{"role": "system", "content": content}]
