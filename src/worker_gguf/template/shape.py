"""Finds the shapes of messages that a chat template supports, and converts OpenAI messages to them.

Templates differ: content is text or parts, tool arguments are an object or JSON text, a system message is allowed at
the beginning only or anywhere, and so on. This is hard to read from their source. So small conversations with a marker
text, the needle, are rendered once and the needle is searched in the output, as in llama-server. A conversation that
already has the right shape is not changed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from worker_gguf.errors import TemplateError
from worker_gguf.template.call_ids import LONG_ID, short_id
from worker_gguf.template.thinking import ThinkingVariables, probe_thinking

__all__ = ["TemplateShape", "probe_shape", "reshape"]

Message = dict[str, Any]
Render = Callable[..., str]
# The form of empty content in an assistant message that only calls tools.
Blank = Literal["missing", "null", "empty"]

_ROLES = ("assistant", "system", "tool", "user")
# In the order of preference. Transformers passes messages without content.
_BLANKS: dict[Blank, Message] = {"missing": {}, "null": {"content": None}, "empty": {"content": ""}}
_USER: Message = {"role": "user", "content": "a"}
_ASSISTANT: Message = {"role": "assistant", "content": "b"}
_NEEDLE, _SECOND = "Needle7391", "Needle8264"
_ARGUMENTS = {"needle_name": "needle_value"}
# It has nine letters and digits, because Mistral's templates refuse any other id.
_CALL_ID = "call73910"
_TOOL = {
    "type": "function",
    "function": {
        "name": "needle_tool",
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {"needle_name": {"type": "string", "description": "A name."}}},
    },
}


class TemplateShape(Struct, frozen=True):
    """The shapes that one template supports. The defaults apply if the template can render none of the probes.

    `text_roles` and `parts_roles` are the roles whose content can be text or parts. `has_two_systems`: several system
    messages at the beginning all reach the prompt. `has_late_system`: a system message in the middle of the
    conversation reaches the prompt. `object_arguments` and `text_arguments` are the forms of a tool call's arguments.
    With `has_short_ids`, the template refuses ids of calls that have not nine letters and digits. `thinking` are the
    variables that change the thinking.
    """

    text_roles: frozenset[str] = frozenset(_ROLES)
    parts_roles: frozenset[str] = frozenset()
    has_system: bool = True
    has_two_systems: bool = True
    has_late_system: bool = True
    has_developer: bool = False
    object_arguments: bool = True
    text_arguments: bool = False
    blank_content: Blank = "missing"
    has_calls: bool = True
    has_short_ids: bool = False
    thinking: ThinkingVariables = ThinkingVariables()


def probe_shape(source: str, render: Render) -> TemplateShape:
    """Render small conversations and find the shapes that reach the output completely."""
    return TemplateShape(
        text_roles=frozenset(role for role in _ROLES if _takes(render, role, _NEEDLE + "\n" + _SECOND)),
        parts_roles=frozenset(role for role in _ROLES if _takes(render, role, [_part(_NEEDLE), _part(_SECOND)])),
        has_system=_takes(render, "system", _NEEDLE + _SECOND) or _takes(render, "system", [_part(_NEEDLE + _SECOND)]),
        has_two_systems=_arrive(render, [_system(_NEEDLE), _system(_SECOND), _USER]),
        # The test has another one at the beginning, because some templates keep only the last one.
        has_late_system=_arrive(render, [_system(_NEEDLE), _USER, _ASSISTANT, _system(_SECOND), _USER]),
        # Its name must be in the source. A template that writes every role's name would render this role, too, although
        # its model was not trained with it.
        has_developer=bool(re.search(r"""['"]developer['"]""", source))
        and _takes(render, "developer", _NEEDLE + _SECOND),
        **_probe_calls(render),
        thinking=probe_thinking(source, functools.partial(_rendered, render, [_USER])),
    )


def reshape(messages: Sequence[Message], shape: TemplateShape) -> list[Message]:
    """Convert OpenAI messages to the template's shape. Raises TemplateError if this would lose content."""
    known = list(messages) if shape.has_developer else [_as_system(message) for message in messages]
    return [_reshape_message(message, shape) for message in _place_systems(known, shape)]


def _takes(render: Render, role: str, content: str | list[Message]) -> bool:
    """Return whether both needles reach the output as text, not inside printed Python or JSON objects."""
    for conversation in _conversations(role, content):
        rendered = _rendered(render, conversation)
        if rendered is not None:
            return (
                _NEEDLE in rendered
                and _SECOND in rendered
                and not re.search(rf"""['"]text['"]: *['"]{_NEEDLE}""", rendered)
            )
    return False


def _arrive(render: Render, conversation: list[Message]) -> bool:
    """Return whether both needles reach the prompt, with all contents as text or with all contents as parts."""
    as_parts = [{**message, "content": [_part(message["content"])]} for message in conversation]
    rendered = _rendered(render, conversation) or _rendered(render, as_parts) or ""
    return _NEEDLE in rendered and _SECOND in rendered


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _conversations(role: str, content: str | list[Message]) -> Iterator[list[Message]]:
    """Yield conversations with a message of a role at the usual place. Strict templates support only the later ones."""
    message: Message = {"role": role, "content": content}
    # A template that only supports parts must not fail the probes of other roles because of the user's messages.
    users: list[Message] = [_USER, {"role": "user", "content": [_part("a")]}]
    if role == "user":
        yield [message]
    elif role in ("system", "developer"):
        yield from ([message, user] for user in users)
    elif role == "assistant":
        yield from ([user, message, user] for user in users)
        yield [_USER, message]
    else:
        message |= {"tool_call_id": _CALL_ID, "name": "needle_tool"}
        for arguments in (_ARGUMENTS, json.dumps(_ARGUMENTS)):
            yield from ([_USER, _call(arguments, blank), message] for blank in _BLANKS)


def _probe_calls(render: Render) -> dict[str, Any]:
    """Find the supported form of a tool call: of its arguments, and of the empty content next to it."""
    for with_result in (True, False):
        for blank in _BLANKS:
            as_object = _rendered_call(render, _ARGUMENTS, blank, with_result=with_result)
            as_text = _rendered_call(render, json.dumps(_ARGUMENTS), blank, with_result=with_result)
            # `{'name': 'value'}` is a printed Python object, so the template expects a text.
            object_fits = as_object is not None and "'needle_name': 'needle_value'" not in as_object
            # `{\"name\": ...}` is a text that was encoded as JSON again, so the template expects an object.
            text_fits = as_text is not None and '\\"needle_value' not in as_text
            if object_fits or text_fits:
                # If both forms render the same, the template checks the type. Then the client's text is better: the
                # model wrote it, so it matches the cached prefix. If they differ, templates document the object.
                takes_text = text_fits and (not object_fits or as_text == as_object)
                arguments = _ARGUMENTS if object_fits else json.dumps(_ARGUMENTS)
                long = _rendered_call(render, arguments, blank, with_result=with_result, call_id=LONG_ID)
                return {
                    "object_arguments": object_fits,
                    "text_arguments": takes_text,
                    "blank_content": blank,
                    "has_short_ids": long is None,
                }
    renders = _rendered(render, [_USER, _call(_ARGUMENTS, "empty"), _USER]) is not None
    return {"has_calls": not renders}


def _rendered_call(
    render: Render, arguments: object, blank: Blank, *, with_result: bool, call_id: str = _CALL_ID
) -> str | None:
    """Render a tool call. Returns None if the template refuses it or leaves it out."""
    result: Message = {"role": "tool", "tool_call_id": call_id, "name": "needle_tool", "content": "b"}
    results = [result] if with_result else []
    rendered = _rendered(render, [_USER, _call(arguments, blank, call_id), *results])
    # Search for the value, because the name of the argument is also in the definition of the tool.
    if rendered is None or "needle_value" not in rendered:
        return None
    if blank == "null":
        filled = _rendered(render, [_USER, {**_call(arguments, blank), "content": "a"}, *results]) or ""
        return rendered if rendered.count("None") <= filled.count("None") else None
    return rendered


def _call(arguments: object, blank: Blank, call_id: str = _CALL_ID) -> Message:
    function = {"name": "needle_tool", "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", **_BLANKS[blank], "tool_calls": calls}


def _rendered(render: Render, conversation: list[Message], **variables: object) -> str | None:
    # Some templates render calls only if the conversation has tools, and some fail without tools.
    with_tools = any("tool_calls" in message for message in conversation)
    for tools in ([_TOOL], None) if with_tools else (None, [_TOOL]):
        try:
            return render(conversation, tools=tools, **variables)
        except TemplateError:
            continue
    return None


def _part(text: str) -> Message:
    return {"type": "text", "text": text}


def _as_system(message: Message) -> Message:
    return {**message, "role": "system"} if message.get("role") == "developer" else message


def _place_systems(messages: Sequence[Message], shape: TemplateShape) -> list[Message]:
    """Move system messages to places that the template supports, so that none is lost.

    System messages at the beginning are joined if the template supports only one. If the template does not support a
    later one, it is added to the end of the user message before it, or to the beginning of the next user message. If
    the template has no system role, this is done with all of them.
    """
    n_head = next((n for n, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    head, rest = list(messages[:n_head]), list(messages[n_head:])
    if len(head) > 1 and not (shape.has_system and shape.has_two_systems):
        head = [functools.reduce(lambda first, message: _prefixed(message, first, "system"), head)]
    if not shape.has_system:
        return _system_in_user([*head, *rest])
    return [*head, *(rest if shape.has_late_system else _system_in_user(rest))]


def _system_in_user(messages: Sequence[Message]) -> list[Message]:
    placed: list[Message] = []
    waiting: Message | None = None
    for message in messages:
        role = message.get("role")
        if role == "system":
            if placed and placed[-1].get("role") == "user":
                placed[-1] = _prefixed(message, placed[-1], "user")
            else:
                waiting = _prefixed(message, waiting, "system") if waiting else message
        elif role == "user" and waiting:
            placed.append(_prefixed(message, waiting, "user"))
            waiting = None
        else:
            placed.append(message)
    return [*placed, {**waiting, "role": "user"}] if waiting else placed


def _prefixed(message: Message, first: Message, role: str) -> Message:
    before, after = first.get("content", ""), message.get("content", "")
    if isinstance(before, str) and isinstance(after, str):
        return {**message, "role": role, "content": before + "\n\n" + after}
    return {**message, "role": role, "content": [*_as_parts(before), *_as_parts(after)]}


def _as_parts(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [_part(str(content))]


def _reshape_message(message: Message, shape: TemplateShape) -> Message:
    shaped = dict(message)
    role = message.get("role")
    calls = message.get("tool_calls")
    if calls == []:
        del shaped["tool_calls"]  # some templates only check whether the key exists
    if shape.has_short_ids and isinstance(shaped.get("tool_call_id"), str):
        shaped["tool_call_id"] = short_id(shaped["tool_call_id"])
    if isinstance(calls, list) and calls:
        shaped["tool_calls"] = [_reshape_call(call, shape) for call in calls]
        if not shape.has_calls:
            # Without its call, the result of a tool would make no sense to the model.
            shaped["content"] = _with_calls(message.get("content"), shaped["tool_calls"])
    content = shaped.get("content")
    if content is None and role in _ROLES:
        shaped.update(_BLANKS[shape.blank_content] if calls else {"content": ""})
    elif isinstance(content, list) and role not in shape.parts_roles:
        shaped["content"] = "\n".join(_text_of(part) for part in content)
    elif isinstance(content, str) and role in shape.parts_roles - shape.text_roles:
        shaped["content"] = [_part(content)]
    return shaped


def _with_calls(content: Any, calls: list[Any]) -> Any:
    functions = [call.get("function", call) if isinstance(call, dict) else call for call in calls]
    text = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return [*content, _part(text)] if isinstance(content, list) else "\n".join(filter(None, (content, text)))


def _text_of(part: object) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str):
        return text
    kind = part.get("type", "unknown") if isinstance(part, dict) else type(part).__name__
    raise TemplateError(
        f"This model's chat template supports only text, but a message has a part of type '{kind}'. Send text parts.",
        param="messages",
    )


def _reshape_call(call: Any, shape: TemplateShape) -> Any:
    if shape.has_short_ids and isinstance(call, dict) and isinstance(call.get("id"), str):
        call = {**call, "id": short_id(call["id"])}
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if not shape.text_arguments:
        arguments = _parsed(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
    elif not isinstance(arguments, str) and not (shape.object_arguments and isinstance(arguments, dict)):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _parsed(arguments: str) -> dict[str, Any]:
    """Return the arguments as an object.

    The model may have written a text that is not a JSON object, for example one that was cut off. It is put under one
    name, so that the conversation can continue. An empty text and `null` mean no arguments.
    """
    try:
        value = json.loads(arguments or "null")
    except (ValueError, RecursionError):
        value = arguments
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"arguments": value}
