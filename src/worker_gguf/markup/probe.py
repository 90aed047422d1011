"""Finds how a model writes reasoning and calls, from its chat template.

First comes a row of families.py, for templates that do not show what their model writes. Then the template is rendered
with and without calls and reasoning, and the texts are compared. If that shows no calls, though the template knows
tools, other rows of families.py count. A model whose template has no format of its own gets a generic one, and the
prompt must state it (stated_format.py).
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.call_probe import probe_calls
from worker_gguf.markup.conversations import Conversations, Render
from worker_gguf.markup.differences import is_mark, last_mark
from worker_gguf.markup.families import GENERIC, fallback_format, known_format
from worker_gguf.markup.reasoning_probe import THINK_TAGS, probe_reasoning

__all__ = ["derived_format", "probe_format", "with_think_tags"]

_READS_CALLS = re.compile(r"""[.'"]tool_calls\b""")
# The marks with which models open a call though their template writes none, and a text of such templates.
_OTHER_STARTS = (("<|python_tag|>", "<|eot_id|>"),)


def probe_format(source: str, render: Render) -> CallFormat:
    """Return how the model of a chat template writes.

    `render(messages, tools=..., add_generation_prompt=..., **variables)` renders the template whose text is `source`,
    and raises TemplateError where it refuses. It is called several dozen times, so do this once for a model.
    """
    return known_format(source) or derived_format(source, render)


def derived_format(source: str, render: Render) -> CallFormat:
    """Return the format that the renderings of a template show, or the generic one, which must be stated."""
    conversations = Conversations(render)
    marks = probe_reasoning(conversations, source)
    shown = probe_calls(conversations, marks)
    if shown is None:
        # A template that neither lists tools nor reads calls was not meant for any.
        knows_tools = conversations.lists_tools or _READS_CALLS.search(source)
        fallback = fallback_format(source) if knows_tools else None
        shown = _with_calls_of(marks, fallback or replace(GENERIC, must_be_stated=True))
    return replace(
        shown,
        must_list_tools=not conversations.lists_tools and not shown.must_be_stated,
        other_starts=_other_starts(source, shown),
        # Several families call while they think. Their marks stand for nothing else, so a call is not missed.
        calls_in_reasoning=bool(shown.reasoning_ends) and not shown.only_at_start,
    )


def with_think_tags(known: CallFormat) -> CallFormat:
    """Add the usual marks of reasoning to the format of a model that has them in its vocabulary, if it has no others.

    Models that were tuned to think often kept a template that knows nothing of it.
    """
    if known.reasons:
        return known
    return replace(known, reasoning_start=THINK_TAGS.reasoning_start, reasoning_ends=THINK_TAGS.reasoning_ends)


def _with_calls_of(marks: CallFormat, calls: CallFormat) -> CallFormat:
    return replace(
        calls,
        reasoning_start=marks.reasoning_start,
        reasoning_ends=marks.reasoning_ends,
        content_start=marks.content_start,
        content_end=marks.content_end,
        ignored=marks.ignored,
    )


def _other_starts(source: str, shown: CallFormat) -> tuple[str, ...]:
    """Return the texts that open a call if the model forgets the mark before them, or writes another one."""
    if shown.only_at_start:
        return tuple(text for text, sign in _OTHER_STARTS if sign in source)
    start = last_mark(shown.call_start)
    before = shown.call_start.removesuffix(start)
    # A mark that goes on with the name, such as "<function=" after "<tool_call>", stands for a call on its own.
    return (start,) if before and before[0] == start[0] and not is_mark(start) else ()
