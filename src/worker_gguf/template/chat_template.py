"""Renders messages to the text of a prompt with a model's chat template.

`ChatTemplate.render` returns the same text as `apply_chat_template(tokenize=False)` of Transformers. Requests use
`ChatTemplate.prompt`, which first converts an OpenAI conversation to the shape that the template supports (shape.py).
`ChatTemplates` chooses one of a model's named templates.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any

import jinja2
from msgspec import Struct

from worker_gguf.errors import TemplateError
from worker_gguf.template.environment import ChatEnvironment, TemplateRefusal
from worker_gguf.template.limits import LimitExceeded, TemplateLimits, limited
from worker_gguf.template.messages import (
    GivenList,
    cut_at_mark,
    mark_end,
    plain,
    plain_messages,
    plain_objects,
    with_reasoning,
)
from worker_gguf.template.shape import TemplateShape, probe_shape, reshape

__all__ = ["CHATML", "ChatTemplate", "ChatTemplates"]

# For a model without a template, because most fine-tunes without one were trained on ChatML.
CHATML = """\
{%- for message in messages -%}
    {{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""

_OWN_NAMES = ("documents", "messages", "tools")


class ChatTemplate:
    """One compiled template. Rendering is thread-safe and keeps no state."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        now: Callable[[], datetime] = datetime.now,
        limits: TemplateLimits | None = None,
        **special_tokens: str,
    ) -> None:
        """Compile `source`. Raises TemplateError. `special_tokens` are other special tokens, such as `pad_token`."""
        self.source = source
        self._limits = limits or TemplateLimits()
        self._special_tokens = {"bos_token": bos_token, "eos_token": eos_token, **special_tokens}
        if len(source) > self._limits.max_source:
            raise TemplateError(
                f"The chat template has {len(source)} characters, more than the limit of {self._limits.max_source}. "
                "Set CHAT_TEMPLATE to another."
            )
        with self._guarded("cannot be compiled", "Set CHAT_TEMPLATE to another."):
            self._environment = ChatEnvironment(now)
            self._template = self._environment.from_string(source)

    @functools.cached_property
    def shape(self) -> TemplateShape:
        """The shapes of messages that this template supports.

        The first access renders several dozen small conversations, so read it before the first request.
        """
        return probe_shape(self.source, self._render)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Render an OpenAI conversation. `variables` are the `chat_template_kwargs` of the request, with any content.

        Raises TemplateError.
        """
        extra = dict(variables or {})
        for name in _OWN_NAMES:
            if name in extra:
                raise TemplateError(
                    f"chat_template_kwargs cannot set '{name}'. Send '{name}' as a field of the request.",
                    param="chat_template_kwargs",
                )
        conversation = reshape(plain_messages(messages), self.shape)
        return self._render(
            conversation,
            tools=tools,
            documents=documents,
            # Clients of vLLM may send these two as variables.
            add_generation_prompt=extra.pop("add_generation_prompt", add_generation_prompt),
            continue_final_message=extra.pop("continue_final_message", continue_final_message),
            **extra,
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        **kwargs: Any,
    ) -> str:
        """Render in the same way as Transformers. Raises TemplateError."""
        return self._render(
            plain_messages(messages),
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **kwargs,
        )

    def _render(
        self,
        messages: Sequence[dict[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        **kwargs: Any,
    ) -> str:
        if continue_final_message and add_generation_prompt:
            raise TemplateError(
                "continue_final_message and add_generation_prompt exclude each other: the first continues the last "
                "message, the second opens a new one. Set one of them to false.",
                param="continue_final_message",
            )
        conversation = GivenList(with_reasoning(message) for message in messages)
        variables = self._special_tokens | plain(kwargs, "chat_template_kwargs")
        variables |= {"tools": plain_objects(tools, "tools"), "documents": plain_objects(documents, "documents")}
        variables |= {"messages": conversation, "add_generation_prompt": add_generation_prompt}
        if not continue_final_message:
            return self._run(variables)
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        text = mark_end(conversation[-1], field, self.source)
        return cut_at_mark(self._run(variables), text)

    def _run(self, variables: dict[str, Any]) -> str:
        with self._guarded("cannot render this conversation"):
            return self._environment.rendered(self._template, variables)

    @contextmanager
    def _guarded(
        self,
        failed: str,
        advice: str = "Change the conversation to one that the model supports, or set CHAT_TEMPLATE to another.",
    ) -> Iterator[None]:
        """Limit the template and convert all errors that it raises to TemplateError, with `advice` for unknown ones."""
        try:
            with limited(self._limits):
                yield
        except TemplateError:
            raise
        except TemplateRefusal as error:
            reason = _short(error.message or "no reason given")
            raise TemplateError(f"The chat template refused the conversation: {reason}", param="messages") from error
        except LimitExceeded as error:
            raise TemplateError(
                f"The chat template {failed}: {error}. Send a shorter conversation or set CHAT_TEMPLATE to another.",
                param="messages",
            ) from error
        except RecursionError as error:
            raise TemplateError(f"The chat template {failed}: it is nested too deeply.", param="messages") from error
        # A template can make Python raise anything: TypeError, ZeroDivisionError, SyntaxError, MemoryError.
        except Exception as error:
            where = _template_line(error)
            at = f" (line {where} of the template)" if where else ""
            raise TemplateError(
                f"The chat template {failed}{at}: {_short(str(error)) or type(error).__name__}. {advice}",
                param="messages",
            ) from error


class ChatTemplates(Struct, frozen=True):
    """The templates of a model. `is_fallback` is True if the model has none, so that ChatML is used."""

    default: ChatTemplate
    tool_use: ChatTemplate | None = None
    is_fallback: bool = False

    @classmethod
    def compile(
        cls, source: str | Mapping[str, str] | Sequence[Mapping[str, str]] | None, **options: Any
    ) -> ChatTemplates:
        """Compile one template, or named ones (`{name: source}` or `[{name, template}]`), or ChatML if there is none.

        `options` are the options of ChatTemplate. Raises TemplateError.
        """
        if not source:
            return cls(ChatTemplate(CHATML, **options), is_fallback=True)
        if isinstance(source, str):
            return cls(ChatTemplate(source, **options))
        named = source if isinstance(source, Mapping) else {entry["name"]: entry["template"] for entry in source}
        if "default" not in named and "tool_use" not in named:
            raise TemplateError(
                f"The model has chat templates named {', '.join(sorted(named))} and none named default. "
                "Set CHAT_TEMPLATE to the one to use."
            )
        compiled = {name: ChatTemplate(named[name], **options) for name in ("default", "tool_use") if named.get(name)}
        tool_use = compiled.get("tool_use")
        return cls(compiled.get("default") or compiled["tool_use"], tool_use)

    def for_tools(self, tools: Sequence[Mapping[str, Any]] | None) -> ChatTemplate:
        """Choose as in Transformers: `tool_use` for a request with tools, `default` for others."""
        return self.tool_use if tools is not None and self.tool_use else self.default


def _template_line(error: BaseException) -> int | None:
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line, step = None, error.__traceback__
    while isinstance(step, TracebackType):
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return line


def _short(text: str, limit: int = 500) -> str:
    text = text.strip().rstrip(".")
    return text if len(text) <= limit else text[:limit] + "…"
