"""Chat templates of model families that do not exist, each with a form of calls that no published family has."""

from __future__ import annotations

__all__ = ["UNSEEN"]

# A conversation in ChatML with the tools in the system message. REASONING and CALLS are the forms of one family.
_FRAME = """
{%- if tools %}<|im_start|>system
You have these tools:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' and message.reasoning_content %}REASONING{% endif -%}
{{ message.content or '' }}
{%- if message.tool_calls %}CALLS{% endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""


def _template(calls: str, reasoning: str = "<think>\n{{ message.reasoning_content }}\n</think>\n\n") -> str:
    return _FRAME.replace("REASONING", reasoning).replace("CALLS", calls)


def _literal(text: str) -> str:
    """Write a text in an expression, because a line break after a tag of Jinja is removed."""
    return "{{ " + repr(text) + " }}" if text else ""


def _each(call: str, between: str = "") -> str:
    """Write each call, with `function` as its function and `values` as the arguments."""
    return (
        "{% for call in message.tool_calls %}{% set function = call.function %}{% set values = function.arguments %}"
        + call
        + "{% if not loop.last %}"
        + _literal(between)
        + "{% endif %}{% endfor %}"
    )


_TEXT = "{{ value if value is string else value | tojson }}"

UNSEEN = {
    "brackets of another script": _template(
        _each("◁call▷{{ function.name }}◁with▷{{ values | tojson }}◁/call▷"),
        "◁think▷{{ message.reasoning_content }}◁/think▷",
    ),
    "marks without brackets": _template(
        "@@calls@@" + _each("@@call@@{{ function.name }}@@with@@{{ values | tojson }}@@end_call@@") + "@@end_calls@@",
        "@@thoughts@@{{ message.reasoning_content }}@@end_thoughts@@",
    ),
    "names as attributes": _template(
        "<actions>"
        + _each(
            '<action name="{{ function.name }}">{% for key, value in values | items %}'
            '<value of="{{ key }}">' + _TEXT + "</value>{% endfor %}</action>"
        )
        + "</actions>",
        "<reasoning>{{ message.reasoning_content }}</reasoning>",
    ),
    "arguments before the name": _template(
        _each('{{ "\\n" }}<run>{"input": {{ values | tojson }}, "tool": "{{ function.name }}"}</run>')
    ),
    "elements named as the arguments": _template(
        _each(
            '{{ "\\n" }}<use function="{{ function.name }}">\n{% for key, value in values | items %}'
            "<{{ key }}>" + _TEXT + "</{{ key }}>\n{% endfor %}</use>"
        )
    ),
    "other keys in a list": _template(
        '{{ "\\n" }}ACTIONS: [' + _each('{"tool": "{{ function.name }}", "input": {{ values | tojson }}}', ", ") + "]"
    ),
    "no closing mark": _template(_each("<|do|>{{ function.name }} {{ values | tojson }}", "\n")),
    "a fence": _template(
        _each('{{ "\\n" }}```call\n{"name": "{{ function.name }}", "arguments": {{ values | tojson }}}\n```')
    ),
    "a whole call of the API": _template(
        _each(
            '<call>{"id": "{{ call.id }}", "type": "function", "function": '
            '{"name": "{{ function.name }}", "arguments": {{ values | tojson }}}}</call>'
        )
    ),
    "all values as JSON": _template(
        _each(
            "[do {{ function.name }}]{% for key, value in values | items %}"
            "[set {{ key }}]{{ value | tojson }}[/set]{% endfor %}[/do]"
        ),
        "[thought]{{ message.reasoning_content }}[/thought]",
    ),
    "types after the key": _template(
        _each(
            "<tool>{{ function.name }}\n{% for key, value in values | items %}"
            '<in key="{{ key }}" type="{{ "text" if value is string else "json" }}">'
            + _TEXT
            + "</in>\n{% endfor %}</tool>\n"
        )
    ),
    "a counter before the name": _template(
        "<|doing|>"
        + _each("<|no|>{{ loop.index0 }}<|is|>{{ function.name }}<|in|>{{ values | tojson }}<|out|>")
        + "<|done|>"
    ),
    "Python in a section": _template(
        "<|code|>"
        + _each(
            "{{ function.name }}({% for key, value in values | items %}{{ key }}="
            "{% if value is string %}{{ value | tojson }}{% else %}{{ value }}{% endif %}"
            "{{ ', ' if not loop.last }}{% endfor %})",
            "\n",
        )
        + "<|/code|>"
    ),
    "a bare list": _template(
        "[" + _each('{"name": "{{ function.name }}", "arguments": {{ values | tojson }}}', ", ") + "]"
    ),
    "a bare list of Python": _template(
        "["
        + _each(
            "{{ function.name }}({% for key, value in values | items %}{{ key }}="
            "{{ value | tojson }}{{ ', ' if not loop.last }}{% endfor %})",
            ", ",
        )
        + "]"
    ),
    "a fence in a tag in a section": _template(
        "<tool_calls>\n"
        + _each("<tool_call>{{ function.name }}\n```json\n{{ values | tojson }}\n```</tool_call>", "\n")
        + "\n</tool_calls>"
    ),
    "two marks before the object": _template(
        _each(
            '<|action_start|><|plugin|>\n{"name": "{{ function.name }}", "parameters": {{ values | tojson }}}'
            "<|action_end|>\n"
        )
    ),
    "a number after the name": _template(
        "<|open|>tools<|sep|>"
        + _each(
            '<|open|>call tool="{{ function.name }}" index="{{ loop.index0 }}"<|sep|>'
            "{% for key, value in values | items %}"
            '<|open|>argument key="{{ key }}" type="{{ "string" if value is string else "number" if value is number '
            'and value is not boolean else "boolean" if value is boolean else "object" if value is mapping '
            'else "array" }}"<|sep|>' + _TEXT + "<|close|>argument<|sep|>{% endfor %}<|close|>call<|sep|>"
        )
        + "<|close|>tools<|sep|>"
    ),
    "an id before the name and values": _template(
        _each(
            '<call id="{{ call.id }}" name="{{ function.name }}">{% for key, value in values | items %}'
            '<p k="{{ key }}">' + _TEXT + "</p>{% endfor %}</call>"
        )
    ),
    "an id after the name and values": _template(
        _each(
            '<call name="{{ function.name }}" id="{{ call.id }}">{% for key, value in values | items %}'
            '<p k="{{ key }}">' + _TEXT + "</p>{% endfor %}</call>"
        )
    ),
    "bare keys": _template(
        _each(
            "<|run|>{{ function.name }}{{ '{' }}"
            "{% for key, value in values | items %}{{ key }}:"
            "{% if value is string %}|%|{{ value }}|%|{% else %}{{ value | tojson }}{% endif %}"
            "{{ ',' if not loop.last }}{% endfor %}{{ '}' }}<|end_run|>"
        )
    ),
    # Not in ChatML: an answer has the marks of thoughts and of text even if there are none.
    "empty marks": """
{%- if tools %}<|open|>tools<|sep|>{{ tools | tojson }}<|close|>tools<|sep|>{% endif -%}
{%- for message in messages -%}
<|open|>message role="{{ message.role }}"<|sep|>
{%- if message.role == 'assistant' -%}
{%- if thinking is not false %}<|open|>think<|sep|>{{ message.reasoning_content }}<|close|>think<|sep|>{% endif -%}
<|open|>response<|sep|>{{ message.content or '' }}<|close|>response<|sep|>
{%- if message.tool_calls %}<|open|>calls<|sep|>CALLS<|close|>calls<|sep|>{% endif -%}
{%- else %}{{ message.content }}{% endif -%}
<|close|>message<|sep|><|end_of_msg|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|open|>message role="assistant"<|sep|><|open|>{{ 'response' if thinking is false else 'think' }}<|sep|>
{%- endif %}""".replace(
        "CALLS",
        _each(
            '<|open|>call tool="{{ function.name }}" index="{{ loop.index }}"<|sep|>'
            "{% for key, value in values | items %}"
            """<|open|>argument key="{{ key }}" type="{{ 'string' if value is string else 'other' }}"<|sep|>"""
            + _TEXT
            + "<|close|>argument<|sep|>{% endfor %}<|close|>call<|sep|>"
        ),
    ),
    "a word before all content": """
{%- for message in messages -%}
{%- if loop.first and tools %}{{ tools | tojson }}{% endif -%}
{%- if message.role == 'user' %}User: {{ message.content }}<|end|>
{%- elif message.tool_calls %}{{ message.content or '' }}<calls>CALLS</calls><|eos|>
{%- else %}Helper: {{ message.content }}<|eos|>{% endif -%}
{%- endfor -%}""".replace(
        "CALLS", "[" + _each('{"name": "{{ function.name }}", "arguments": {{ values | tojson }}}', ", ") + "]"
    ),
}
