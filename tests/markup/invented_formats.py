"""Call formats drawn at random, and chat templates that write them: models that nobody has seen."""

from __future__ import annotations

import random
from collections.abc import Callable

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat, JsonCall, TaggedValues

__all__ = ["invented_format", "template_of"]

# How a mark is written from its word, and the mark that closes it.
_STYLES: tuple[tuple[str, str], ...] = (
    ("<{}>", "</{}>"),
    ("[{}]", "[/{}]"),
    ("<|{}_begin|>", "<|{}_end|>"),
    ("<｜{}▁begin｜>", "<｜{}▁end｜>"),
    ("◁{}▷", "◁/{}▷"),
    ("<|open|>{}<|sep|>", "<|close|>{}<|sep|>"),
    ("«{}»", "«end {}»"),
    ("<|{}>", "<{}|>"),
    ("<begin_{}>", "<end_{}>"),
    ("<ns:{}>", "</ns:{}>"),
    ("**{}**", "**end {}**"),
)
# The words for the section of calls, a call, its arguments, and the name and the value of one.
_WORDS = (
    ("calls", "call", "args", "arg", "val"),
    ("tool_calls", "tool_call", "arguments", "arg_key", "arg_value"),
    ("functions", "function", "params", "param", "value"),
    ("actions", "action", "inputs", "input", "text"),
)
# Before and after the text of the user, before that of the assistant, and after that.
_TURNS = (
    ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
    ("[INST]", "[/INST]", "", "</s>"),
    ("<|user|>", "<|end|>", "<|assistant|>", "<|end|>"),
    ("### User:\n", "\n\n", "### Assistant:\n", "\n\n"),
    ("<user>", "</user>", "<assistant>", "</assistant>"),
    ("<｜User｜>", "", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ("USER: ", " ", "ASSISTANT: ", "</s>"),
    ("<|start|>user<|message|>", "<|end|>", "<|start|>assistant<|message|>", "<|end|>"),
)
_ID = "[a-zA-Z0-9]{9}"
_TYPE = (
    "{{ 'string' if value is string else 'boolean' if value is boolean else 'number' if value is number "
    "else 'object' if value is mapping else 'array' }}"
)


def invented_format(seed: int) -> CallFormat:
    """Return a format, always the same for one seed."""
    draw = random.Random(seed)
    opening, closing = draw.choice(_STYLES)
    section, call, *inner = draw.choice(_WORDS)
    line = draw.choice(("", "\n"))
    form = CallFormat(
        call_start=opening.format(call) + line,
        call_end=line + closing.format(call),
        separator=draw.choice(("", "\n")),
        before_calls=draw.choice(("", "\n", "\n\n")),
    )
    if draw.random() < 0.5:
        form = replace(form, section_start=opening.format(section) + line, section_end=line + closing.format(section))
    if draw.random() < 0.6:
        word = draw.choice(("think", "thoughts"))
        ends = (line + closing.format(word) + line,)
        form = replace(form, reasoning_start=opening.format(word) + line, reasoning_ends=ends)
    if draw.random() < 0.15:
        form = replace(form, content_start="<answer>", content_end="</answer>", before_calls="")
    add = draw.choice((_json_object, _json, _tagged, _pythonic))
    return add(form, draw, lambda number, ends=False: (closing if ends else opening).format(inner[number]))


Mark = Callable[..., str]


def _json_object(form: CallFormat, draw: random.Random, _: Mark) -> CallFormat:
    name, arguments = draw.choice(("name", "tool")), draw.choice(("arguments", "parameters", "input"))
    keys = draw.choice(
        (
            JsonCall(name, arguments),
            JsonCall(name, arguments, is_arguments_first=True),
            JsonCall(name, arguments, id_key="id", is_id_first=draw.random() < 0.5),
            JsonCall(name, arguments, function_key="function", constants=(("type", '"function"'),)),
            JsonCall("", "", is_name_key=True),
        )
    )
    return _perhaps_list(replace(form, syntax="json_object", json_call=keys), draw)


def _json(form: CallFormat, draw: random.Random, mark: Mark) -> CallFormat:
    start = draw.choice((mark(0), mark(0) + "\n", "\n"))
    form = replace(form, syntax="json", call_start=form.call_start.rstrip(), arguments_start=start)
    return draw.choice(
        (
            form,
            replace(form, name_end=draw.choice(("[ID]", ":")), id_pattern=_ID),
            replace(form, name_start="<|name|>", id_pattern=_ID),
            replace(form, name_end="#", id_pattern="[0-9]+"),
        )
    )


def _tagged(form: CallFormat, draw: random.Random, mark: Mark) -> CallFormat:
    line = draw.choice(("", "\n"))
    attributes = TaggedValues('<in key="', '">', value_end="</in>" + line)
    kinds = (
        ('<do name="', '">' + line, "</do>", attributes),
        ('<do name="', '">' + line, "</do>", replace(attributes, is_json=True)),
        (
            *('<do name="', '">' + line, "</do>"),
            replace(
                attributes,
                type_start='" type="',
                text_types=("string",),
                types=("string", "number", "boolean", "object", "array"),
            ),
        ),
        (
            *(form.call_start.rstrip(), line, form.call_end.lstrip()),
            TaggedValues(mark(1), mark(1, True) + line, mark(2), mark(2, True) + line),
        ),
        ("<do>\n<f=", ">\n", "</f>\n</do>", TaggedValues("<p=", ">\n", value_end="\n</p>\n")),
        ("<do:", ">" + line, "</do>", TaggedValues("<", ">", value_end="</", key_close=">" + line)),
    )
    call_start, arguments_start, call_end, values = draw.choice(kinds)
    return replace(
        form,
        syntax="tagged",
        call_start=call_start,
        arguments_start=arguments_start,
        call_end=call_end,
        values=values,
    )


def _pythonic(form: CallFormat, draw: random.Random, _: Mark) -> CallFormat:
    if not form.section_start:
        return replace(form, syntax="pythonic")
    return _perhaps_list(replace(form, syntax="pythonic", call_start="", call_end="", separator="\n"), draw)


def _perhaps_list(form: CallFormat, draw: random.Random) -> CallFormat:
    if not form.section_start or draw.random() < 0.4:
        return form
    section = {"section_start": form.section_start.rstrip(), "section_end": form.section_end.lstrip()}
    return replace(form, is_array=True, call_start="", call_end="", separator=", ", **section)


def template_of(form: CallFormat, seed: int) -> str:
    """Return a chat template whose assistant writes in this format."""
    draw = random.Random(seed)
    before_user, after_user, before_turn, end = draw.choice(_TURNS)
    tools = "{{ 'Tools: ' ~ tools | tojson ~ '\\n' if tools }}"
    places = [tools, ""] if draw.random() < 0.5 else ["", tools]
    brackets = ("[", "]") if form.is_array else ("", "")
    call = _text(form.call_start) + _call(form) + _text(form.call_end)
    calls = (
        _text(form.section_start + brackets[0])
        + "{% for call in m.tool_calls %}{% set function = call.function %}{% set values = function.arguments %}"
        + f"{call}{{% if not loop.last %}}{_text(form.separator)}{{% endif %}}{{% endfor %}}"
        + _text(brackets[1] + form.section_end)
        + _text(draw.choice((end, "<|eom|>")) if end.strip() else end)
    )
    thoughts = _text(form.reasoning_start) + "{{ m.reasoning_content }}" + _text("".join(form.reasoning_ends))
    content = _text(form.content_start) + "{{ m.content or '' }}" + _text(form.content_end)
    opens = form.reasoning_start if draw.random() < 0.4 else ""
    return (
        f"{places[0]}{{% for m in messages %}}{{% if m.role == 'user' %}}{places[1]}"
        f"{_text(before_user)}{{{{ m.content }}}}{_text(after_user)}"
        f"{{% elif m.role == 'assistant' %}}{_text(before_turn)}"
        f"{{% if m.reasoning_content %}}{thoughts if form.reasoning_ends else ''}{{% endif %}}"
        f"{{% if m.content or not m.tool_calls %}}{content}{{% endif %}}"
        f"{{% if m.tool_calls %}}{{% if m.content %}}{_text(form.before_calls)}{{% endif %}}{calls}"
        f"{{% else %}}{_text(end)}{{% endif %}}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{_text(before_turn + opens)}{{% endif %}}"
    )


def _text(text: str) -> str:
    """Write a text in an expression, because a line break after a tag of Jinja is removed."""
    return "{{ " + repr(text) + " }}" if text else ""


def _call(form: CallFormat) -> str:
    if form.syntax == "json_object":
        return _object(form.json_call)
    if form.syntax == "pythonic":
        each = "{{ key }}={{ value | tojson }}{{ ', ' if not loop.last }}"
        return f"{{{{ function.name }}}}({{% for key, value in values | items %}}{each}{{% endfor %}})"
    id_ = "{{ loop.index0 }}" if form.id_pattern == "[0-9]+" else "{{ call.id }}"
    before = id_ + _text(form.name_start) if form.name_start else ""
    after = _text(form.name_end) + id_ if form.name_end else ""
    return f"{before}{{{{ function.name }}}}{after}{_text(form.arguments_start)}{_arguments(form.values)}"


def _arguments(marks: TaggedValues | None) -> str:
    if marks is None:
        return "{{ values | tojson }}"
    each = (
        f"{_text(marks.key_start)}{{{{ key }}}}{_text(marks.type_start) + _TYPE if marks.type_start else ''}"
        f"{_text(marks.key_end)}{_text(marks.value_start)}"
        f"{{{{ value if value is string and not {marks.is_json} else value | tojson }}}}"
        f"{_text(marks.value_end)}{'{{ key }}' + _text(marks.key_close) if marks.key_close else ''}"
    )
    return f"{{% for key, value in values | items %}}{each}{{% endfor %}}"


def _object(keys: JsonCall) -> str:
    if keys.is_name_key:
        return "{{ {function.name: values} | tojson }}"
    name, arguments = (
        f'"{keys.name_key}": "{{{{ function.name }}}}"',
        f'"{keys.arguments_key}": {{{{ values | tojson }}}}',
    )
    parts = [arguments, name] if keys.is_arguments_first else [name, arguments]
    if keys.function_key:
        parts = [f'"{keys.function_key}": ' + _text("{") + ", ".join(parts) + _text("}")]
    parts = [f'"{key}": {value}' for key, value in keys.constants] + parts
    if keys.id_key:
        parts.insert(0 if keys.is_id_first else len(parts), f'"{keys.id_key}": "{{{{ call.id }}}}"')
    return _text("{") + ", ".join(parts) + _text("}")
