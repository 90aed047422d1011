"""Parses the bodies of Ollama's two routes that generate: chat and generate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.errors import InvalidRequest, UnsupportedParameter
from worker_gguf.protocol.calls import Call, ChatCall, CompletionCall, Defaults, InfillCall, ReadyCall
from worker_gguf.protocol.names import Names, Origin
from worker_gguf.protocol.ollama.bodies import OllamaChat, OllamaGenerate
from worker_gguf.protocol.ollama.messages import chat_messages, chat_tools, ends_with_a_beginning, with_pictures
from worker_gguf.protocol.ollama.options import further_fields, read_options
from worker_gguf.protocol.ollama.rendering import loaded_chat, loaded_generate, render_chat, render_generate
from worker_gguf.protocol.parse import chat_call, completion_call
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.route import Generation
from worker_gguf.protocol.screening import differing, effectless
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["CHAT", "GENERATE", "parse_chat", "parse_generate"]

_DEBUG = "_debug_render_only"
_CHAT_FIELDS: Final = frozenset({*OllamaChat.model_fields, _DEBUG})
_GENERATE_FIELDS: Final = frozenset({*OllamaGenerate.model_fields, _DEBUG})
_EFFORTS: Final = ("low", "medium", "high", "max")
_READ_WITHOUT_PROMPT: Final = frozenset({"model", "messages", "prompt", "stream"})


class _Common(Struct, frozen=True):
    """What both routes have in common: the fields of a chat or a completion, and what is to be known of their origin.

    `names` are those of the fields that come from others, such as options. `ignored` are names without effect.
    """

    fields: dict[str, Any]
    names: dict[str, str]
    ignored: frozenset[str]

    def origin(self, *ignored: str) -> Origin:
        return Origin(Names(self.names), tuple(self.ignored.union(ignored)))


def parse_chat(body: object, defaults: Defaults) -> Call | ReadyCall:
    """Parse the body of POST /api/chat. Raises InvalidRequest."""
    fields = read_object(body)
    chat = validated(OllamaChat, fields, {})
    if not chat.messages:
        return _ready(fields, loaded_chat, defaults)
    common = _common(chat, fields, _CHAT_FIELDS)
    own: dict[str, Any] = {"messages": chat_messages(fields["messages"])}
    if chat.tools:
        own["tools"] = chat_tools(fields["tools"])
    if ends_with_a_beginning(own["messages"]) and "continue_final_message" not in common.fields:
        # The model continues a last message of its own, as in Ollama, unless the client says what to do.
        own["continue_final_message"] = "add_generation_prompt" not in common.fields
    return _chat(chat, common, own, defaults)


def parse_generate(body: object, defaults: Defaults) -> Call | ReadyCall:
    """Parse the body of POST /api/generate. Raises InvalidRequest."""
    fields = read_object(body)
    generate = validated(OllamaGenerate, fields, {})
    if not generate.prompt and not generate.suffix and not generate.images:
        return _ready(fields, loaded_generate, defaults)
    common = _common(generate, fields, _GENERATE_FIELDS)
    own: dict[str, Any] = {"template": generate.template} if generate.template else {}
    if generate.raw or generate.suffix:
        return _completion(generate, common, own, defaults)
    system = [{"role": "system", "content": generate.system}] if generate.system else []
    content = with_pictures("images", generate.images, generate.prompt or "")
    own["messages"] = [*system, {"role": "user", "content": content}]
    common = replace(common, names=common.names | {"messages": "prompt."})
    return replace(_chat(generate, common, own, defaults), before=tuple(generate.context or ()))


def _completion(
    generate: OllamaGenerate, common: _Common, own: dict[str, Any], defaults: Defaults
) -> CompletionCall | InfillCall:
    """Parse a prompt that is continued as it is, or the text before a suffix."""
    if generate.raw and (generate.system or generate.template or generate.context):
        raise InvalidRequest("With 'raw', no template, system message or context can be used.", param="raw")
    if generate.images:
        raise UnsupportedParameter("Images have no place in a prompt with 'raw' or 'suffix'.", param="images")
    ignored = [name for name in ("system", "context") if generate.suffix and getattr(generate, name)]
    if generate.think is not None:
        ignored.append("think")
    fields = {**common.fields, **own, "prompt": generate.prompt or ""}
    if generate.suffix:
        fields["suffix"] = generate.suffix
    if generate.logprobs:
        fields["logprobs"] = generate.top_logprobs or 0
    return completion_call(fields, defaults, common.origin(*ignored))


def _common(body: OllamaChat | OllamaGenerate, fields: Mapping[str, Any], own: frozenset[str]) -> _Common:
    """Read what both routes have in common. Raises InvalidRequest."""
    if fields.get(_DEBUG):
        raise UnsupportedParameter(f"'{_DEBUG}' cannot be honoured here. Leave it out.", param=_DEBUG)
    options, names, ignored_options = read_options(body.options)
    further, ignored = further_fields(fields, own)
    for name, value in options.items():
        if further.setdefault(name, value) != value:
            raise differing(name, names[name])
    unread = {name for name in ("truncate", "shift") if getattr(body, name)} | ({"keep_alive"} & fields.keys())
    if body.top_logprobs and not body.logprobs:
        unread.add("top_logprobs")
    given = {"model": body.model, "format": body.format}
    common = further | {name: value for name, value in given.items() if value is not None}
    common["stream"] = body.stream is not False
    return _Common(common, names, frozenset(ignored_options | ignored | unread))


def _chat(body: OllamaChat | OllamaGenerate, common: _Common, own: Mapping[str, Any], defaults: Defaults) -> ChatCall:
    """Parse a conversation. A line of the answer has a whole call, because its arguments are an object."""
    if isinstance(body.think, str) and body.think not in _EFFORTS:
        raise invalid("think", f"must be true, false or one of {', '.join(_EFFORTS)}")
    fields = {**common.fields, **own}
    if body.think is not None:
        switch = "enable_thinking" if isinstance(body.think, bool) else "reasoning_effort"
        if fields.setdefault(switch, body.think) != body.think:
            raise differing(switch, "think")
        common = replace(common, names=common.names | {switch: "think"})
    if body.logprobs:
        fields |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return replace(chat_call(fields, defaults, common.origin()), holds_calls=True)


def _ready(fields: Mapping[str, Any], answer: Callable[..., JsonBody], defaults: Defaults) -> ReadyCall:
    """Return the call for a request without a prompt, which only loads the model or gives it back."""
    unloads = _is_no_time(fields.get("keep_alive"))
    model = fields.get("model") or None  # as in the other routes, an empty name is none
    return ReadyCall(
        model=model,
        ignored=effectless(fields.keys() - _READ_WITHOUT_PROMPT, defaults),
        answer=partial(answer, model, "unload" if unloads else "load"),
        needs_model=not unloads,
    )


def _is_no_time(keep_alive: float | str | None) -> bool:
    """Return whether a duration is zero. Texts have units, such as `0s` or `0h0m`."""
    if isinstance(keep_alive, str):
        return "0" in keep_alive and not keep_alive.strip("0.hmsuµn")
    return keep_alive == 0


CHAT: Final = Generation("chat-", OllamaChat, parse_chat, render_chat)
GENERATE: Final = Generation("gen-", OllamaGenerate, parse_generate, render_generate)
