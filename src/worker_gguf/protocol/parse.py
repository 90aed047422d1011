"""Parses the fields of bodies into frozen calls, with all values checked. Independent of tokenizers and templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from worker_gguf.protocol.adapters import read_lora
from worker_gguf.protocol.bodies import ChatBody, Common, CompletionBody
from worker_gguf.protocol.calls import MAX_SEQUENCES, ChatCall, CompletionCall, Defaults, InfillCall, Options, Prompt
from worker_gguf.protocol.constraint import read_constraint
from worker_gguf.protocol.history import with_calls
from worker_gguf.protocol.images import images_of, with_images
from worker_gguf.protocol.messages import check_messages
from worker_gguf.protocol.names import COMMON, Origin
from worker_gguf.protocol.parameters import CHAT_REFUSED, COMPLETION_REFUSED, NO_CONSTRAINTS, OF_THE_TEXT
from worker_gguf.protocol.reasoning import ReasoningRequest, read_reasoning
from worker_gguf.protocol.sampling import read_sampling
from worker_gguf.protocol.screening import differing, effectless, refuse, renamed
from worker_gguf.protocol.tools import read_tools
from worker_gguf.protocol.validation import invalid, validated

__all__ = ["agreed_logprobs", "chat_call", "check_sequences", "completion_call", "read_options"]


def chat_call(body: Mapping[str, Any], defaults: Defaults, origin: Origin = COMMON) -> ChatCall:
    """Parse the fields of a chat request, which are not null. Raises InvalidRequest.

    The names of the fields are those of POST /v1/chat/completions. Other dialects bring theirs to this form. Errors and
    the call have the names that the client sent.
    """
    with origin.names.in_errors():
        call = _chat(body, defaults)
    return replace(call, options=_from(origin, call.options, defaults))


def completion_call(
    body: Mapping[str, Any], defaults: Defaults, origin: Origin = COMMON
) -> CompletionCall | InfillCall:
    """Parse the fields of a completion request, which are not null. With a suffix, it fills a gap.

    Raises InvalidRequest.

    The names of the fields are those of POST /v1/completions. Other dialects bring theirs to this form. Errors and the
    call have the names that the client sent.
    """
    with origin.names.in_errors():
        call = _completion(body, defaults)
    return replace(call, options=_from(origin, call.options, defaults))


def _chat(body: Mapping[str, Any], defaults: Defaults) -> ChatCall:
    fields, sent = renamed(body)
    refuse(fields, CHAT_REFUSED, sent)
    chat = validated(ChatBody, fields, sent)
    messages = with_images(fields["messages"])
    check_messages(chat.messages, messages)
    images = tuple(images_of(messages))
    tools, unused_tools = read_tools(chat)
    reasoning, unused_reasoning = read_reasoning(chat, sent)
    if chat.return_token_ids and reasoning.is_hidden:
        raise invalid("return_token_ids", "excludes hiding the reasoning, whose tokens it would show")
    if chat.return_token_ids and images:
        raise invalid("return_token_ids", "excludes images, which are no tokens")
    ignored = {*_ignored(chat, fields, CHAT_REFUSED, sent), *unused_tools, *unused_reasoning}
    ignored |= {name for image in images for name in image.unread}
    if tools.use is not None and tools.use.is_required and chat.ignore_eos:
        raise invalid("ignore_eos", "excludes a call that is required, which says where the answer ends")
    if tools.use is not None and tools.use.is_required:  # the answer has calls and no text that could match
        ignored |= {sent.get(name, name) for name in OF_THE_TEXT & fields.keys() if fields[name] not in NO_CONSTRAINTS}
    continues, generation_prompt = bool(chat.continue_final_message), chat.add_generation_prompt
    if continues and chat.messages[-1].role != "assistant":
        # There is nothing to continue, so the model writes a new message, which needs the generation prompt.
        ignored.add("continue_final_message")
        if generation_prompt is False:
            ignored.add("add_generation_prompt")
        continues, generation_prompt = False, None
    if continues and generation_prompt:
        raise invalid("continue_final_message", "excludes add_generation_prompt")
    return ChatCall(
        options=_options(chat, _chat_logprobs(chat), tuple(ignored), defaults),
        messages=with_calls(messages),
        template_variables=_template_variables(chat, reasoning),
        add_generation_prompt=not continues if generation_prompt is None else generation_prompt,
        continue_final_message=continues,
        tools=tools,
        reasoning=reasoning,
        images=images,
    )


def _completion(body: Mapping[str, Any], defaults: Defaults) -> CompletionCall | InfillCall:
    fields, sent = renamed(body)
    refuse(fields, COMPLETION_REFUSED, sent)
    completion = validated(CompletionBody, fields, sent)
    prompts = _prompts(completion.prompt)
    check_sequences(len(prompts), completion.n)
    top_logprobs = agreed_logprobs(completion.logprobs, completion.n_probs, "logprobs")
    options = _options(completion, top_logprobs, _ignored(completion, fields, COMPLETION_REFUSED, sent), defaults)
    if completion.suffix:
        return _infill(completion, prompts, options, defaults)
    if completion.echo and top_logprobs is not None:
        options = replace(options, scores_prompt=True)
    return CompletionCall(options, prompts, bool(completion.echo))


def check_sequences(n_prompts: int, n: int | None) -> None:
    """Raise InvalidRequest if a request has too many prompts times answers per prompt."""
    if (n_sequences := n_prompts * (n or 1)) > MAX_SEQUENCES:
        raise invalid("prompt", f"prompts times n must be at most {MAX_SEQUENCES}, not {n_sequences}")


def read_options(
    body: Common,
    top_logprobs: int | None,
    fields: Mapping[str, Any],
    refused: Mapping[str, object],
    sent: Mapping[str, str],
    defaults: Defaults,
) -> Options:
    """Read the options of a validated body. Each of `fields` that neither it nor `refused` has counts as ignored.

    Raises InvalidRequest. `sent` maps fields to the aliases that were sent.
    """
    options = _options(body, top_logprobs, _ignored(body, fields, refused, sent), defaults)
    return _from(COMMON, options, defaults)


def _from(origin: Origin, options: Options, defaults: Defaults) -> Options:
    """Return options with the names that the client sent. Raises UnsupportedParameter with STRICT_PARAMETERS."""
    ignored = effectless((*origin.names.all(options.ignored), *origin.ignored), defaults)
    return replace(options, ignored=ignored, names=origin.names)


def _infill(
    completion: CompletionBody, prompts: tuple[Prompt, ...], options: Options, defaults: Defaults
) -> InfillCall:
    if len(prompts) != 1 or not isinstance(prefix := prompts[0], str):
        raise invalid("prompt", "must be one text if there is a suffix")
    if completion.echo:
        raise invalid("echo", "excludes a suffix")
    return InfillCall(options, prefix, completion.suffix or "", suffix_first=defaults.spm_infill)


def _options(body: Common, top_logprobs: int | None, ignored: tuple[str, ...], defaults: Defaults) -> Options:
    constraint, unused = read_constraint(body)
    lora, unused_of_lora = read_lora(body.lora)
    sampling, text_biases = read_sampling(body, defaults.sampling)
    max_tokens = defaults.max_tokens if body.max_tokens is None else body.max_tokens
    if max_tokens == -1:
        max_tokens = None
    min_tokens = body.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise invalid("min_tokens", f"must be at most max_tokens, which is {max_tokens}, not {min_tokens}")
    stream = bool(body.stream)
    return Options(
        model=body.model or None,  # SillyTavern sends an empty name until the user chooses a model
        sampling=sampling,
        text_biases=text_biases,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop=_stops(body.stop),
        n=body.n or 1,
        top_logprobs=top_logprobs,
        stream=stream,
        include_usage=stream and body.stream_options is not None and bool(body.stream_options.include_usage),
        cache_prompt=body.cache_prompt is not False,
        priority=body.priority or 0,
        timeout_s=body.timeout,
        ignored=(*ignored, *unused, *unused_of_lora),
        constraint=constraint,
        banned_texts=tuple(dict.fromkeys(body.banned_strings or ())),
        stop_tokens=tuple(dict.fromkeys(body.stop_token_ids or ())),
        keeps_stop=bool(body.include_stop_str_in_output),
        shows_controls=body.skip_special_tokens is False,
        shows_ids=bool(body.return_token_ids),
        lora=lora,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """Return the different stop texts, without empty ones."""
    texts = [stop] if isinstance(stop, str) else stop or []
    return tuple(dict.fromkeys(text for text in texts if text))


def _ignored(
    body: Common, fields: Mapping[str, Any], refused: Mapping[str, object], sent: Mapping[str, str]
) -> tuple[str, ...]:
    honoured = type(body).model_fields
    names = {sent.get(name, name) for name in fields if name not in honoured and name not in refused}
    if body.stream_options is not None:
        if not body.stream:
            names.add("stream_options")
        names |= {f"stream_options.{name}" for name in body.stream_options.model_extra or ()}
    return tuple(names)


def _chat_logprobs(chat: ChatBody) -> int | None:
    top = agreed_logprobs(chat.top_logprobs, chat.n_probs, "top_logprobs")
    if chat.logprobs:
        return top or 0
    # n_probs alone returns log-probabilities, as in llama-server; top_logprobs needs logprobs, as in OpenAI's API.
    if chat.top_logprobs and not chat.n_probs:
        raise invalid("top_logprobs", "needs logprobs to be true")
    return top or None


def agreed_logprobs(top: int | None, n_probs: int | None, name: str) -> int | None:
    """Return the number of log-probabilities, which has two names. Raises InvalidRequest if they differ."""
    if n_probs and top is not None and top != n_probs:
        raise differing(name, "n_probs")
    return n_probs or top


def _template_variables(chat: ChatBody, reasoning: ReasoningRequest) -> dict[str, Any]:
    variables = dict(chat.chat_template_kwargs or {})
    effort = reasoning.effort
    if effort is not None and variables.get("reasoning_effort", effort.value) != effort.value:
        raise invalid(effort.names[0], "differs from the one in chat_template_kwargs")
    return variables


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[Prompt, ...]:
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int):
        return (tuple(prompt),)
    return tuple(item if isinstance(item, str) else tuple(item) for item in prompt)
