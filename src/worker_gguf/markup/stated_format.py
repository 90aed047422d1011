"""The text that tells a model which tools it has and how to call them, if its chat template does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.families import GENERIC
from worker_gguf.markup.tool import Tool
from worker_gguf.markup.written_calls import written_calls

__all__ = ["stated_call", "stated_format"]

_EXAMPLE = ("NAME", {"ARGUMENT": "VALUE"})
_TOOLS = "You have these functions, one in each line as JSON:"
_RULES = """\
To call a function, write exactly this, with its name and its arguments:
{example}
Give all arguments that the parameters require, and no others than they name. Call only the functions above. {several}\
The results come in the next message. If you need no function, answer in words without such marks."""
_SEVERAL = "To call several of them, write one after the other, and nothing after the last one:\n{example}\n"
_ONE = "Call one function at a time, and write nothing after it. "


def stated_format(tools: Sequence[Tool], form: CallFormat = GENERIC) -> str:
    """Return the instructions for the system message of a model, by default in the generic format.

    They are for a format that `must_be_stated`, and, with its own format, for one that `must_list_tools`.
    """
    listed = "\n".join(json.dumps(_listed(tool), ensure_ascii=False) for tool in tools)
    several = _SEVERAL.format(example=written_calls(form, [_EXAMPLE, _EXAMPLE])) if form.is_parallel else _ONE
    rules = _RULES.format(example=written_calls(form, [_EXAMPLE]), several=several)
    return f"{_TOOLS}\n{listed}\n\n{rules}"


def stated_call(name: str, arguments: str) -> str:
    """Return a call of the conversation as such a model writes it. `arguments` is a JSON text."""
    quoted = json.dumps(name, ensure_ascii=False)
    return f'{GENERIC.call_start}{{"name": {quoted}, "arguments": {arguments}}}{GENERIC.call_end}'


def _listed(tool: Tool) -> dict[str, Any]:
    description = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **description, "parameters": tool.parameters}
