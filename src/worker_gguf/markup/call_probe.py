"""Reads off a chat template how its model writes calls.

The texts around a call are cut at the needles: its name, its id, the names and the values of its arguments. What stands
before the first call, between two calls and after the last one gives the marks of a call and of the section of calls.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.conversations import CONTENT, FIRST, SECOND, Conversations, has_needle
from worker_gguf.markup.differences import (
    common_prefix,
    common_suffix,
    counterpart,
    end_of_turn,
    has_bracket,
    is_boundary,
    last_mark,
    split_repetition,
)
from worker_gguf.markup.json_probe import calls_as_objects, calls_with_json
from worker_gguf.markup.seen import COUNTER, ID_PATTERN, SeenCalls
from worker_gguf.markup.value_probe import calls_with_values, with_values

__all__ = ["probe_calls"]

_ARRAYS = ("json_object", "pythonic")
# A mark of fewer characters, such as "[", is too common in a text to begin a call in the middle of it, and so is one of
# few characters without a bracket, such as "to=".
_MIN_MARK, _MIN_WORD = 3, 5
# The syntaxes whose calls can have an id.
_NAMED = ("json", "tagged")
_NAME_PATTERN = r"[\w.-]+"


def probe_calls(conversations: Conversations, marks: CallFormat) -> CallFormat | None:
    """Return `marks` with the marks of calls, or None if the template writes no calls that can be read off.

    `marks` has those of reasoning and of content, which are cut off those of calls.
    """
    if not conversations.has_calls:
        return None
    for probe in (calls_as_objects, calls_with_json, calls_with_values):
        seen = probe(conversations)
        if seen is not None:
            before_calls, before = _before(conversations, marks, seen)
            after, left_over = _after(conversations, marks, seen, before)
            known = replace(marks, before_calls=before_calls, ignored=(*marks.ignored, *left_over))
            known = with_values(_with_marks(known, *_with_id(seen, before), after), seen.values)
            return None if has_needle(repr(known)) else _with_content_names(known, conversations)
    return None


def _with_id(seen: SeenCalls, before: str) -> tuple[SeenCalls, str]:
    """Count what stands before the name to the call, if it is its id or its name, or a number that differs."""
    between = seen.between or ""
    if seen.inner.syntax not in _NAMED:
        return seen, before
    for pattern, first, second in (
        (ID_PATTERN, before.rpartition(FIRST.id), between.rpartition(SECOND.id)),
        # A name that is written twice is read where it is written last.
        (_NAME_PATTERN, before.rpartition(FIRST.name), between.rpartition(SECOND.name)),
        (COUNTER, _last_number(before), _last_number(between)),
    ):
        if first[1] != second[1] and first[2] == second[2]:
            inner = replace(seen.inner, name_start=first[2], id_pattern=pattern)
            return seen._replace(inner=inner, between=second[0]), first[0]
    return seen, before


def _last_number(text: str) -> tuple[str, str, str]:
    """Return the last number of a text, if other text follows it, between what is before and after it."""
    found = re.search(r"([0-9]+)([^0-9]+)\Z", text)
    return (text[: found.start()], found[1], found[2]) if found else (text, "", "")


def _with_marks(marks: CallFormat, seen: SeenCalls, before: str, after: str) -> CallFormat:
    inner = {name: getattr(seen.inner, name) for name in seen.inner.__struct_fields__ if name in _INNER}
    known = replace(marks, **inner, is_parallel=seen.between is not None)
    is_list = before.rstrip().endswith("[") and after.lstrip().startswith("]")
    if is_list and seen.inner.syntax in _ARRAYS and (seen.between or ",").strip() == ",":
        known = replace(
            known,
            is_array=True,
            section_start=before.rstrip()[:-1],
            section_end=after.lstrip()[1:].rstrip(),
            separator=seen.between or ", ",
        )
    elif seen.between is None:
        known = replace(known, call_start=before, call_end=after.rstrip())
    else:
        outer_start, start, end, separator, outer_end = split_repetition(before, seen.between, after)
        known = replace(
            known,
            section_start=outer_start,
            call_start=start,
            call_end=end,
            separator=separator,
            section_end=outer_end.rstrip(),
        )
    trigger = known.trigger.strip()
    return replace(known, only_at_start=len(trigger) < (_MIN_MARK if has_bracket(trigger) else _MIN_WORD))


# What a call has within its marks.
_INNER = (
    "syntax",
    "json_call",
    "name_start",
    "name_end",
    "id_pattern",
    "arguments_start",
    "arguments_end",
    "string_quote",
)


def _before(conversations: Conversations, marks: CallFormat, seen: SeenCalls) -> tuple[str, str]:
    """Return the whitespace between content and the calls, and the marks before the first call."""
    own = seen.text[: seen.start]
    texts = [text for text in conversations.openings if text]
    plain_start = (conversations.turn(content=CONTENT) or "").partition(CONTENT)[0]
    _, _, rest = (conversations.turn([FIRST], content=CONTENT) or "").partition(CONTENT)
    between, found, _ = rest.partition(seen.text[seen.start : seen.end])
    if found:
        head = common_suffix(between, own)
        for text in texts:
            # A template may write the calls as a turn of their own.
            turn_start = common_prefix(text, own).strip()
            if turn_start:
                head = head.rpartition(turn_start)[2]
    else:
        head = min((own.removeprefix(text) for text in (*texts, plain_start)), key=len)
        if head == own:
            head = own[max(len(common_prefix(own, text)) for text in (*texts, plain_start)) :]
    head = _without_empty_marks(head, marks).lstrip()
    space = between[: len(between) - len(head)] if found else ""
    return (space if space.isspace() else ""), head


def _without_empty_marks(head: str, marks: CallFormat) -> str:
    """Cut off the marks of reasoning and of content that a template writes before a call without any."""
    for mark in (marks.reasoning_start, *marks.reasoning_ends, marks.content_start, marks.content_end):
        inner = head.lstrip()
        if mark.strip() and inner.startswith(mark.strip()) and is_boundary(inner, len(mark.strip())):
            head = inner.removeprefix(mark.strip())
    return head


def _after(
    conversations: Conversations, marks: CallFormat, seen: SeenCalls, before: str
) -> tuple[str, tuple[str, ...]]:
    """Return the marks after the last call, and the mark that ends a turn of calls but not one of an answer."""
    after, opening = seen.after, conversations.openings[0]
    # A mark that ends the turn of the user, too, is not only about content.
    content_end = "" if opening.lstrip().startswith(marks.content_end) else marks.content_end
    after_content = conversations.after_content().removeprefix(content_end)
    if not after_content.strip():
        # The template ends a turn where the next one begins.
        followed = conversations.after_content(is_followed=True).removeprefix(content_end)
        return after[: end_of_turn(after, followed, opening)], ()
    end = end_of_turn(after, after_content, opening)
    mark = last_mark(after.rstrip())
    if end < len(after) or mark in (seen.between or mark):
        return after[:end], ()
    if mark == after.rstrip() and counterpart(mark, before):
        # The only mark there looks like the end of a section.
        return after[:end], ()
    return after.rstrip().removesuffix(mark), (mark,)


def _with_content_names(known: CallFormat, conversations: Conversations) -> CallFormat:
    """Find the name that stands for content, if the template writes content as it writes a call."""
    name = known.content_start.removesuffix(known.arguments_start)
    is_call = known.content_start.endswith(known.arguments_start) and name.isidentifier()
    if known.syntax == "json" and is_call and conversations.openings[0].endswith(known.call_start):
        return replace(known, content_names=(name,), content_start="", content_end="")
    return known
