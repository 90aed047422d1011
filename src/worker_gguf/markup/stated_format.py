"""The text that tells a model which tools it has and how to call them, if its chat template does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker_gguf.markup.families import GENERIC
from worker_gguf.markup.tool import Tool

__all__ = ["stated_call", "stated_format"]

_INTRODUCTION = "You have these functions, one in each line as JSON:"
_RULES = """\
To call a function, write its name and its arguments as one JSON object between these two tags:
{example}
Give all arguments that the parameters require, and no others than they name. Call only the functions above. To call \
several of them, write one such block for each, one after the other, and nothing after the last one. The results come \
in the next message. If you need no function, answer in words without these tags."""


def stated_format(tools: Sequence[Tool]) -> str:
    """Return the instructions for the system message of a model whose format `must_be_stated`."""
    listed = "\n".join(json.dumps(_listed(tool), ensure_ascii=False) for tool in tools)
    example = f'{GENERIC.call_start}{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}{GENERIC.call_end}'
    return f"{_INTRODUCTION}\n{listed}\n\n{_RULES.format(example=example)}"


def stated_call(name: str, arguments: str) -> str:
    """Return a call of the conversation as such a model writes it. `arguments` is a JSON text."""
    quoted = json.dumps(name, ensure_ascii=False)
    return f'{GENERIC.call_start}{{"name": {quoted}, "arguments": {arguments}}}{GENERIC.call_end}'


def _listed(tool: Tool) -> dict[str, Any]:
    description = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **description, "parameters": tool.parameters}
