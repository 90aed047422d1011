"""The record that a chaos run keeps of its jobs, and the check of their answers."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from worker_gguf.embedded import Prompt

__all__ = ["Sent", "Tally", "answer_of", "is_envelope"]


@dataclass(slots=True)
class Sent:
    """A job from the view of its client."""

    kind: str
    prompt: Prompt | None
    cancel_at_s: float | None = None


@dataclass(slots=True)
class Tally:
    jobs: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    right: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        deeds = ", ".join(f"{n} {deed}" for deed, n in sorted(self.deeds.items()))
        ends = ", ".join(f"{n} {end}" for end, n in sorted(self.ends.items()))
        lines = [f"chaos: {deeds}; {ends}; {self.right} answers compared, wrong ones are faults; {self.seconds:.0f} s"]
        lines += [f"FAULT: {fault}" for fault in self.faults]
        lines += [f"chaos_jobs {self.jobs}", f"chaos_lost {len(self.lost)}", f"chaos_twice {len(self.twice)}"]
        return "\n".join(lines)


def answer_of(output: list[Any]) -> str:
    """Return the text of a job's output, which is one object or the texts of a stream."""
    if output and isinstance(output[0], dict):
        text: str = output[0]["choices"][0]["message"]["content"]
        return text
    events = [event.removeprefix("data: ") for event in "".join(output).split("\n\n") if event]
    if not events or events[-1] != "[DONE]":
        return f"(a stream without its end: {events[-1:]})"
    choices = (json.loads(event)["choices"] for event in events[:-1])
    return "".join(choice[0]["delta"].get("content") or "" for choice in choices if choice)


def is_envelope(error: str) -> bool:
    try:
        return {"message", "type", "param", "code"} <= json.loads(error)["error"].keys() and "Traceback" not in error
    except (ValueError, TypeError, KeyError):
        return False
