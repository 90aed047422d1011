"""A request with tools, under `auto`, against the same prompt without parsing: tokens per second.

`tools_ratio_c8` is the first over the second. The model has random weights and calls no tool, so this is what the
search for a call costs.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from bench.load import Figures, Load, run_alone
from bench.serving.servers import Server, Setup

# Two loads one after the other differ by more than the cost of parsing, so many pairs are needed.
_TURNS = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    at_once: int = 8
    requests: int = 48
    tools: int = 20
    prompt_tokens: int = 40
    max_tokens: int = 96


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = 200 * sizes.tools + sizes.prompt_tokens + sizes.max_tokens
    with setup.worker(model, sizes.at_once, n_ctx, {"CHAT_TEMPLATE": TEMPLATE}) as worker:
        for choice in ("auto", "none"):
            _load(worker, sizes, choice)
        for turn in range(_TURNS * setup.rounds):
            order = ("auto", "none") if turn % 2 else ("none", "auto")
            rates = {choice: _load(worker, sizes, choice).tokens_per_s for choice in order}
            setup.findings.add("tools_tokens_per_s_c8", rates["auto"])
            setup.findings.add("tools_none_tokens_per_s_c8", rates["none"])
            setup.findings.add("tools_ratio_c8", rates["auto"] / rates["none"])


def tools(count: int) -> list[dict[str, object]]:
    """Return tools with short definitions, because a long prompt makes each step long and its cost uncertain."""
    parameters = {
        "type": "object",
        "properties": {"path": {"type": "string"}, "mode": {"enum": ["read", "write"]}},
        "required": ["path"],
    }
    return [
        {"type": "function", "function": {"name": f"tool_{n}", "description": "Does it.", "parameters": parameters}}
        for n in range(count)
    ]


# Calls between tags, as in many families.
TEMPLATE = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}
{%- for message in messages %}<{{ message.role }}>{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}</{{ message.role }}>
{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
# With an earlier call, the tools stay in the prompt also where none may be called.
CALLED = (
    {"role": "user", "content": "Read it."},
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "tool_0", "arguments": '{"path": "a", "mode": "read"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": "Done."},
)


def _load(server: Server, sizes: Sizes, choice: str) -> Figures:
    load = Load(
        server.url,
        server.model,
        sizes.at_once,
        sizes.requests,
        sizes.prompt_tokens,
        sizes.max_tokens,
        secrets.token_hex(8),
        chat=True,
        options={"tools": tools(sizes.tools), "tool_choice": choice},
        history=CALLED,
    )
    return run_alone(load)
