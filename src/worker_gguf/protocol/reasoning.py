"""Reads what a chat request says about reasoning. Several APIs have their own names for the same few wishes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct

from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.bodies import MAX_INT32, ChatBody
from worker_gguf.protocol.numbers import integer
from worker_gguf.protocol.validation import invalid

__all__ = ["SWITCHES", "Asked", "ReasoningRequest", "read_reasoning"]

T = TypeVar("T", str, bool, int)
# Where the reasoning goes: into fields of its own, into the content as the model writes it, or into both.
Form = Literal["apart", "content", "both"]

_FORMS: Mapping[str, Form] = {"auto": "apart", "deepseek": "apart", "none": "content", "deepseek-legacy": "both"}
# Variables of chat templates that turn thinking on with true.
SWITCHES = ("enable_thinking", "thinking", "enable_reasoning", "reasoning")
_THINKING_TYPES = {"enabled": True, "disabled": False, "adaptive": None, "auto": None}


class Asked(NamedTuple, Generic[T]):
    """A wish, and the names of the parameters that express it."""

    value: T
    names: tuple[str, ...]


class ReasoningRequest(Struct, frozen=True):
    """What a request wants of the reasoning. None means that it does not say.

    `effort` is a word that a template may know. `switch` turns thinking on or off. `budget` is the number of tokens
    after which the thinking is ended, with `message` before its end; -1 is no limit. With `is_hidden`, the reasoning is
    left out of the answer.
    """

    effort: Asked[str] | None = None
    switch: Asked[bool] | None = None
    budget: Asked[int] | None = None
    message: Asked[str] | None = None
    form: Form = "apart"
    is_hidden: bool = False


def read_reasoning(chat: ChatBody, sent: Mapping[str, str]) -> tuple[ReasoningRequest, tuple[str, ...]]:
    """Return the wishes of a request, and the names of what has no effect in it.

    `sent` maps fields to the aliases that were sent. Raises InvalidRequest, also if two parameters contradict each
    other.
    """
    own = chat.reasoning or {}
    thinking = {"type": chat.thinking} if isinstance(chat.thinking, bool) else chat.thinking or {}
    effort = _agreed([("reasoning_effort", chat.reasoning_effort), ("reasoning.effort", _effort(own.get("effort")))])
    shown = _agreed([("include_reasoning", chat.include_reasoning), ("reasoning.exclude", _excluded(own))])
    budget_name = sent.get("thinking_budget_tokens", "thinking_budget_tokens")
    request = ReasoningRequest(
        effort=effort,
        switch=_switch(chat, own, thinking, effort),
        budget=_agreed(
            [
                (budget_name, chat.thinking_budget_tokens),
                ("thinking.budget_tokens", _tokens("thinking.budget_tokens", thinking.get("budget_tokens"))),
                ("reasoning.max_tokens", _tokens("reasoning.max_tokens", own.get("max_tokens"))),
            ]
        ),
        message=_agreed([("reasoning_budget_message", chat.reasoning_budget_message or None)]),
        form=_FORMS[chat.reasoning_format or "auto"],
        is_hidden=shown is not None and not shown.value,
    )
    if request.is_hidden and request.form != "apart":
        raise invalid("reasoning_format", f"excludes '{shown.names[0] if shown else ''}', which hides the reasoning")
    return request, tuple(_without_effect(request, own, thinking))


def _without_effect(request: ReasoningRequest, own: Mapping[str, Any], thinking: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"reasoning.{name}" for name in own if name not in ("effort", "max_tokens", "enabled", "exclude"))
    yield from (f"thinking.{name}" for name in thinking if name not in ("type", "budget_tokens"))
    if request.message is not None and (request.budget is None or request.budget.value < 0):
        yield from request.message.names


def _switch(
    chat: ChatBody, own: Mapping[str, Any], thinking: Mapping[str, Any], effort: Asked[str] | None
) -> Asked[bool] | None:
    """Return what turns thinking on or off, apart from the effort and from the template's own variables."""
    switch = _agreed(
        [
            ("enable_thinking", chat.enable_thinking),
            ("thinking" if isinstance(chat.thinking, bool) else "thinking.type", _thinking_type(thinking)),
            ("reasoning.enabled", _boolean("reasoning.enabled", own.get("enabled"))),
        ]
    )
    if switch is None:
        return None
    if effort is not None and (effort.value != "none") is not switch.value:
        raise _contradiction(switch.names[0], effort.names[0])
    variables = chat.chat_template_kwargs or {}
    for name in SWITCHES:
        if isinstance(value := variables.get(name), bool) and value is not switch.value:
            raise _contradiction(switch.names[0], f"chat_template_kwargs.{name}")
    return switch


def _agreed(wishes: list[tuple[str, T | None]]) -> Asked[T] | None:
    """Return the value on which all parameters agree that have one. Raises InvalidRequest."""
    said = [(name, value) for name, value in wishes if value is not None]
    if not said:
        return None
    first, value = said[0]
    for name, other in said:
        if other != value:
            raise _contradiction(first, name)
    return Asked(value, tuple(name for name, _ in said))


def _contradiction(first: str, second: str) -> InvalidRequest:
    return InvalidRequest(f"'{first}' and '{second}' contradict each other. Send one of them.", param=second)


def _effort(effort: object) -> str | None:
    if effort is not None and (not isinstance(effort, str) or len(effort) > 64):
        raise invalid("reasoning.effort", "must be a string of at most 64 characters")
    return effort


def _excluded(own: Mapping[str, Any]) -> bool | None:
    """Return whether the reasoning is shown, or None if `exclude` is not set."""
    excluded = _boolean("reasoning.exclude", own.get("exclude"))
    return None if excluded is None else not excluded


def _thinking_type(thinking: Mapping[str, Any]) -> bool | None:
    kind = thinking.get("type")
    if isinstance(kind, bool) or kind is None:
        return kind
    if not isinstance(kind, str) or kind not in _THINKING_TYPES:
        raise invalid("thinking.type", f"must be one of {', '.join(_THINKING_TYPES)}")
    return _THINKING_TYPES[kind]


def _boolean(param: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise invalid(param, "must be true or false")
    return value


def _tokens(param: str, value: object) -> int | None:
    value = integer(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= MAX_INT32:
        raise invalid(param, f"must be an integer from -1 to {MAX_INT32}")
    return value
