"""Parsed requests as frozen values, the same for all dialects. Independent of tokenizers and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import Constraint, LineLimits, SamplingParams
from worker_gguf.protocol.adapters import AdapterChoice
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.images import SentImage
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.names import AS_SENT, Names
from worker_gguf.protocol.reasoning import ReasoningRequest
from worker_gguf.protocol.rendering import JsonBody
from worker_gguf.protocol.tools import NO_TOOLS, ToolRequest

__all__ = [
    "MAX_SEQUENCES",
    "Call",
    "ChatCall",
    "CompletionCall",
    "Defaults",
    "ExtraText",
    "InfillCall",
    "InspectionCall",
    "MixedPrompt",
    "Options",
    "Prompt",
    "ReadyCall",
]

# The limit for the number of prompts times the number of answers per prompt.
MAX_SEQUENCES = 64


class MixedPrompt(Struct, frozen=True):
    """A prompt of texts and token ids, which are joined."""

    parts: tuple[str | int, ...]


Prompt = str | tuple[int, ...] | MixedPrompt


class Options(Struct, frozen=True):
    """The options that all routes that generate share.

    `text_biases` will be applied to every token of their texts. The ids in `sampling.logit_bias` are not yet compared
    with the size of the vocabulary. If `max_tokens` is None, the answer continues to the end of the context; 0 only
    evaluates the prompt. If `top_logprobs` is None, no log-probabilities are returned. With `scores_prompt`, those of
    the prompt are returned, too. `timeout_s` counts from the arrival of the request. `ignored` has the names of
    parameters without effect, as the client sent them; `names` translates those that are found later, and those in
    later errors. With `shows_controls`, control tokens are part of the text. With `shows_ids`, the answer has the ids
    of its tokens. `constraint` is what the answer must match, and `lines` ends it at a line. `lora` are the adapters
    that the request names, or None. `adapters` are those with which it is computed: the service finds them for its
    model.
    """

    model: str | None
    sampling: SamplingParams
    text_biases: tuple[tuple[str, float], ...]
    max_tokens: int | None
    min_tokens: int
    stop: tuple[str, ...]
    n: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    cache_prompt: bool
    priority: int
    timeout_s: float | None
    ignored: tuple[str, ...]
    constraint: Constraint | None = None
    scores_prompt: bool = False
    banned_texts: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    keeps_stop: bool = False
    shows_controls: bool = False
    shows_ids: bool = False
    lines: LineLimits | None = None
    lora: tuple[AdapterChoice, ...] | None = None
    adapters: AdapterSet = ()
    names: Names = AS_SENT


class _GeneratingCall(Struct, frozen=True):
    """The base of parsed requests that generate."""

    options: Options

    @property
    def model(self) -> str | None:
        return self.options.model

    @property
    def timeout_s(self) -> float | None:
        return self.options.timeout_s


class ChatCall(_GeneratingCall, frozen=True):
    """A parsed chat request.

    `messages` are checked, and their calls have the form of history.py. Only the chat template uses
    `template_variables`. `before` are tokens of an earlier conversation, which the prompt continues. With
    `holds_calls`, a streamed answer has each tool call at once, as a whole answer has. `images` are those in the
    messages, in their order.
    """

    messages: tuple[Mapping[str, Any], ...]
    template_variables: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    tools: ToolRequest = NO_TOOLS
    reasoning: ReasoningRequest = ReasoningRequest()
    before: tuple[int, ...] = ()
    holds_calls: bool = False
    images: tuple[SentImage, ...] = ()


class CompletionCall(_GeneratingCall, frozen=True):
    """A parsed completion request.

    A prompt may be an empty text, because it depends on the tokenizer whether that has any token. With `echo`, the
    answer begins with the prompt. With `shows_prompt`, the text of the prompt's tokens is a field of the answer.
    """

    prompts: tuple[Prompt, ...]
    echo: bool
    shows_prompt: bool = False


class ExtraText(Struct, frozen=True):
    """A text from elsewhere that helps to fill a gap, such as another file of the same project."""

    text: str
    filename: str = "tmp"


class InfillCall(_GeneratingCall, frozen=True):
    """A parsed request to fill the gap between two texts.

    The answer goes on after `prefix` and then `begun`, in which names of special tokens count as these. Unless `extra`
    is None, the prompt names a project and its files, as llama-server's does. With `fits_context`, the texts are cut to
    what the context has room for; otherwise they are refused if they are too long. With `suffix_first`, the suffix
    comes first in the prompt, as some models were trained.
    """

    prefix: str
    suffix: str
    begun: str = ""
    extra: tuple[ExtraText, ...] | None = None
    fits_context: bool = False
    suffix_first: bool = False
    shows_prompt: bool = False


Call = ChatCall | CompletionCall | InfillCall


class InspectionCall(Struct, frozen=True, kw_only=True):
    """The base of parsed requests that inspect a prompt. `ignored` has the names of fields without effect.

    If it has a `chat`, the template of this conversation is examined before the request is answered.
    """

    model: str | None = None
    ignored: tuple[str, ...] = ()
    chat: ChatCall | None = None

    @property
    def timeout_s(self) -> float | None:
        return None


class ReadyCall(InspectionCall, frozen=True, kw_only=True):
    """A request to a route that generates, which needs no generation. `answer` returns its answer.

    With `needs_model`, the model is loaded before.
    """

    answer: Callable[[ModelCard], JsonBody]
    needs_model: bool = True
