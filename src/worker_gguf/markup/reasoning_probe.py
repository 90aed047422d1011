"""Reads off a chat template how its model writes reasoning, and content apart from it.

A turn with reasoning shows the marks. Some templates show them only beside calls, some only in the prompt, which opens
the reasoning or closes it at once, and some only cut reasoning off the turns of the past. Then their source has the
mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.conversations import CONTENT, FIRST, REASONING, Conversations, has_needle
from worker_gguf.markup.differences import (
    common_prefix,
    common_suffix,
    counterpart,
    end_of_turn,
    first_mark,
    is_mark,
    last_mark,
)

__all__ = ["THINK_TAGS", "probe_reasoning"]

THINK_TAGS = CallFormat(reasoning_start="<think>\n", reasoning_ends=("\n</think>\n\n",))
# A text in the source of a template that renders no reasoning, and the marks that its model writes.
_IN_SOURCE = (
    ("</think>", THINK_TAGS),
    ("[/THINK]", CallFormat(reasoning_start="[THINK]", reasoning_ends=("[/THINK]",))),
    ("<|inner_suffix|>", CallFormat(reasoning_start="<|inner_prefix|>", reasoning_ends=("<|inner_suffix|>",))),
    # Apriel's template only tells the model in words to write so.
    (
        "[BEGIN FINAL RESPONSE]",
        CallFormat(
            reasoning_start="Here are my reasoning steps:\n",
            reasoning_ends=("\n[BEGIN FINAL RESPONSE]\n",),
            ignored=("[END FINAL RESPONSE]",),
        ),
    ),
)


class _Turn(NamedTuple):
    """What stands before and after the reasoning in a turn, and before the same turn without reasoning goes on."""

    before: str
    after: str
    plain: str


def probe_reasoning(conversations: Conversations, source: str) -> CallFormat:
    """Return the marks of reasoning and of content; a value without any if there are none."""
    start, end = _around_no_content(conversations)
    marks = _reasoning(conversations, source, start)
    known = replace(marks, content_start=start, content_end=end) if start else _with_content(conversations, marks)
    before_end = _before_end(conversations, known)
    return replace(known, ignored=(*known.ignored, before_end)) if before_end else known


def _before_end(conversations: Conversations, marks: CallFormat) -> str:
    """Return the marks at the end of a turn but the last one, which ends the generation."""
    after = conversations.after_content().removeprefix(marks.content_end).rstrip()
    before_end = after.removesuffix(last_mark(after)).strip()
    # Some templates begin another turn in any case.
    is_end = is_mark(before_end) and not any(after.startswith(opening) for opening in conversations.openings if opening)
    return before_end if is_end and not has_needle(before_end) else ""


def _reasoning(conversations: Conversations, source: str, content_start: str) -> CallFormat:
    opening = conversations.openings[0]
    for turn in _turns(conversations):
        end = turn.after.removesuffix(content_start)
        start = turn.before[len(common_prefix(turn.before, turn.plain)) :]
        if not start.strip():
            start = counterpart(end, turn.before)
        if not start.strip():
            # The prompt opens the reasoning, and no turn of the past shows it.
            start = opening[len(common_prefix(opening, turn.before)) :]
        return CallFormat(reasoning_start=start.lstrip(), reasoning_ends=(end,))
    return _from_prompt(conversations) or next((marks for text, marks in _IN_SOURCE if text in source), CallFormat())


def _with_content(conversations: Conversations, marks: CallFormat) -> CallFormat:
    """Add the marks around content, for a model that wraps it and writes nothing if there is none."""
    before, found, after = (conversations.turn(content=CONTENT) or "").partition(CONTENT)
    if not found:
        return marks
    # What a turn of calls begins with, too, is not about content.
    others = (*conversations.openings, (conversations.turn([FIRST]) or "") if conversations.has_calls else "")
    known = max((common_prefix(before, other) for other in others), key=len)
    start = before[len(known) :].lstrip()
    for mark in (marks.reasoning_start, *marks.reasoning_ends):
        start = start.removeprefix(mark.strip()).lstrip()
    if not start:
        return marks
    ends = tuple(end.removesuffix(start) for end in marks.reasoning_ends)
    start = start.removeprefix(next(iter(ends), "").strip())
    opening = conversations.openings[0]
    end = after[: end_of_turn(after, conversations.after_calls() or opening, opening)].rstrip()
    if end == after.rstrip() and last_mark(end) != end:
        # Turns with calls end with another mark, so the last one is that of the turn.
        end = end.removesuffix(last_mark(end))
    return replace(marks, reasoning_ends=ends, content_start=start, content_end=end.rstrip())


def _around_no_content(conversations: Conversations) -> tuple[str, str]:
    """Return the marks of content that a template writes even if there is none, before a call; "" if it writes none."""
    if not conversations.has_calls:
        return "", ""
    before, _, after = (conversations.turn(content=CONTENT) or "").partition(CONTENT)
    own = (conversations.turn([FIRST]) or "").partition(FIRST.name)[0]
    beside_call = (conversations.turn([FIRST], content=CONTENT) or "").partition(CONTENT)[2]
    end = common_prefix(after, beside_call).strip()
    start = counterpart(end, before).strip()
    is_pair = bool(start) and own.rpartition(start)[2].lstrip().startswith(end)
    return (start, end) if is_pair else ("", "")


def _turns(conversations: Conversations) -> Iterator[_Turn]:
    plain = (conversations.turn(content=CONTENT) or "").partition(CONTENT)[0]
    for as_part in (False, True):
        turn = conversations.turn(content=CONTENT, reasoning=REASONING, as_part=as_part) or ""
        before, _, rest = turn.partition(REASONING)
        after, found, _ = rest.partition(CONTENT)
        # A template that prints the parts as they are does not know them.
        if found and after.strip() and "'thinking'" not in before and '"thinking"' not in before:
            yield _Turn(before, after, plain)
    if conversations.has_calls:
        own = (conversations.turn([FIRST]) or "").partition(FIRST.name)[0]
        before, _, rest = (conversations.turn([FIRST], reasoning=REASONING) or "").partition(REASONING)
        after, found, _ = rest.partition(FIRST.name)
        if found and after.strip():
            end = after.removesuffix(common_suffix(after, own))
            yield _Turn(before, end if end.strip() else first_mark(after), own)


def _from_prompt(conversations: Conversations) -> CallFormat | None:
    """Find the marks by which the prompt opens the reasoning, and closes it to turn the thinking off."""
    default, thinking, silent = conversations.openings
    for opened in (thinking, default):
        closing = silent[len(common_prefix(silent, opened)) :]
        if not closing.strip():
            continue
        opening = opened[len(common_prefix(silent, opened)) :]
        end = last_mark(closing.rstrip())
        start = (opening or counterpart(end, silent.rpartition(end)[0])).strip()
        if start and start != end:
            # Between the marks of no reasoning, a template writes the line breaks of both.
            line = "\n" if silent.partition(start)[2].startswith("\n") else ""
            return CallFormat(reasoning_start=start + line, reasoning_ends=(line + end,))
    return None
