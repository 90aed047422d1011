"""The bodies of the two routes as Pydantic models: types, bounds and descriptions, published as OpenAPI.

The defaults are in `calls.Defaults`.
"""

# Annotations are values here: Pydantic would compile each one that is a text, which adds milliseconds to the start.

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from worker_gguf.engine.request import MAX_STOPS
from worker_gguf.protocol.numbers import integer, integers

__all__ = [
    "LONGEST_TIMEOUT_S",
    "MAX_BREAKERS",
    "MAX_INT32",
    "MAX_N",
    "MAX_TEXT",
    "MAX_TOP_LOGPROBS",
    "ChatBody",
    "Common",
    "CompletionBody",
    "Count",
    "Message",
    "Objects",
    "Probability",
    "StopText",
    "StreamOptions",
    "StrictBody",
    "Window",
]

MAX_N = 16
MOST_PRIORITY = 1000
MAX_TOP_LOGPROBS = 20
MAX_INT32 = 2**31 - 1
# The longest stop text and the longest breaker, in characters.
MAX_TEXT = 1000
MAX_BREAKERS = 256
MAX_BANNED = 256
MAX_ADAPTERS = 256
MAX_NGRAM = 1000
LONGEST_TIMEOUT_S = 604_800

# It comes after the bounds in the types below, because otherwise the bounds would be missing in the published schema.
_WHOLE = BeforeValidator(integer)
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_INT32), _WHOLE]
# -1 means "the whole context" or "no limit", as in llama-server.
Window = Annotated[int, Field(ge=-1, le=MAX_INT32), _WHOLE]
TopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS), _WHOLE]
ShortText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
# Empty texts are ignored, because some clients send them for a field that the user left blank.
StopText = Annotated[str, Field(max_length=MAX_TEXT)]
# A prompt may have a million ids, so the list is converted in one pass, and only if it contains a float.
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True), BeforeValidator(integers)]


class _UnlessEmpty:
    """Takes an empty value for None: clients send one for a field that the user left blank."""

    _EMPTY: tuple[object, ...] = ("", [], {})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._given, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        published = handler(schema)
        return {"anyOf": [*published.get("anyOf", [published]), {"enum": list(self._EMPTY)}]}

    def _given(self, value: object) -> object:
        return None if value in self._EMPTY else value


_UNLESS_EMPTY = _UnlessEmpty()
GrammarText = Annotated[str | None, _UNLESS_EMPTY]


class StrictBody(BaseModel):
    """The base of all bodies. Fields that it does not name are kept: other code honours, refuses or names them."""

    # Strict: "1" and true are not numbers. Integers are valid floats, and whole floats are valid integers (numbers.py).
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(StrictBody):
    include_usage: bool | None = Field(None, description="End the stream with a chunk that carries the usage.")


class Common(StrictBody):
    """The fields that both routes share.

    Only its subclasses are validated, so pydantic builds no validator for this class.
    """

    model_config = ConfigDict(defer_build=True)

    model: str | None = Field(None, max_length=512, description="The served model's id or one of its aliases.")
    stream: bool | None = Field(None, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = Field(
        None, description="Options of a stream: include_usage ends it with the usage."
    )
    n: Annotated[int, Field(ge=1, le=MAX_N), _WHOLE] | None = Field(None, description="Answers per prompt.")
    max_tokens: Window | None = Field(
        None,
        description="Longest answer, in tokens; -1 continues to the end of the context, 0 only evaluates the prompt.",
    )
    min_tokens: Count | None = Field(None, description="Tokens before the model may end the answer.")
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Texts that end the answer and are not part of it; empty texts are ignored."
    )
    timeout: float | None = Field(
        None, gt=0, le=LONGEST_TIMEOUT_S, description="Seconds until the request fails with 504."
    )
    cache_prompt: bool | None = Field(None, description="Reuse tokens that are already in memory.")
    priority: Annotated[int, Field(ge=-MOST_PRIORITY, le=MOST_PRIORITY), _WHOLE] | None = Field(
        None, description="Requests with a lower number go first, as in vLLM."
    )
    n_probs: TopLogprobs | None = Field(None, description="The number of log-probabilities, as in llama-server.")
    # protocol/adapters.py checks the items, so that the error names the place of a wrong one.
    lora: str | dict[str, Any] | Annotated[list[Any], Field(max_length=MAX_ADAPTERS)] | None = Field(
        None,
        description="The LoRA adapters of this answer: a name, or a list of names and of objects with a `name` or an "
        "`id`, and a `scale`; an empty list is none, as without it.",
    )

    temperature: float | None = Field(None, ge=0, le=100, description="0 always takes the most likely token.")
    dynatemp_range: float | None = Field(
        None, ge=0, le=100, description="How far the temperature changes with the model's certainty; 0 is off."
    )
    dynatemp_exponent: float | None = Field(None, ge=0, le=100, description="Exponent of that change.")
    top_k: Window | None = Field(None, description="Keep the k most likely tokens; 0 and -1 are off.")
    top_p: Probability | None = Field(None, description="Keep the most likely tokens up to this mass; 1 is off.")
    min_p: Probability | None = Field(None, description="Drop tokens below this share of the most likely; 0 is off.")
    typical_p: Probability | None = Field(None, description="Keep the most typical tokens up to this mass; 1 is off.")
    top_n_sigma: float | None = Field(
        None, ge=-1, le=1000, description="Keep logits within n sigma of the highest; 0 and below is off."
    )
    xtc_probability: Probability | None = Field(None, description="XTC: probability that it is applied; 0 is off.")
    xtc_threshold: Probability | None = Field(None, description="XTC: of the tokens above this, keep the least likely.")
    repeat_penalty: float | None = Field(None, gt=0, le=100, description="Penalty for repeated tokens; 1 is off.")
    repeat_last_n: Window | None = Field(None, description="Number of recent tokens for penalties; -1 is the context.")
    presence_penalty: float | None = Field(None, ge=-100, le=100, description="Penalty for tokens that appeared.")
    frequency_penalty: float | None = Field(None, ge=-100, le=100, description="Penalty for each appearance.")
    dry_multiplier: float | None = Field(None, ge=0, le=100, description="DRY: strength; 0 is off.")
    dry_base: float | None = Field(None, ge=1, le=100, description="DRY: growth of the penalty per repeated token.")
    dry_allowed_length: Count | None = Field(None, description="DRY: length of a repetition without penalty.")
    dry_penalty_last_n: Window | None = Field(None, description="DRY: number of recent tokens; -1 is the context.")
    dry_sequence_breakers: (
        Annotated[list[ShortText], Field(max_length=MAX_BREAKERS)] | Annotated[str, Field(max_length=10_000)] | None
    ) = Field(None, description="DRY: texts that end a repetition, as a list or as the JSON of one.")
    mirostat: Annotated[int, Field(ge=0, le=2), _WHOLE] | None = Field(
        None, description="Mirostat's version; 0 is off."
    )
    mirostat_tau: float | None = Field(None, ge=0, le=100, description="Mirostat: target surprise.")
    mirostat_eta: float | None = Field(None, ge=0, le=100, description="Mirostat: learning rate.")
    adaptive_target: float | None = Field(
        None, ge=-1, le=1, description="Adaptive-p: target probability; below 0 is off."
    )
    adaptive_decay: float | None = Field(None, ge=0, le=0.99, description="Adaptive-p: decay of its memory.")
    smoothing_factor: float | None = Field(
        None, ge=0, le=100, description="Quadratic smoothing, as in text-generation-webui; 0 is off."
    )
    smoothing_curve: float | None = Field(None, ge=1, le=10, description="Its cubic part; 1 is none.")
    top_a: Probability | None = Field(
        None, description="Drop tokens below this share of the squared probability of the most likely; 0 is off."
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=MAX_NGRAM), _WHOLE] | None = Field(
        None, description="Never repeat so many tokens of the prompt or the answer; 0 is off."
    )
    min_keep: Count | None = Field(None, description="Minimum number of tokens that every sampler keeps.")
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64), _WHOLE] | None = Field(
        None, description="-1 and 4294967295 are random; other values are taken modulo 4294967295."
    )
    samplers: ShortText | Annotated[list[str], Field(max_length=32)] | None = Field(
        None, description="The samplers to apply, in order: a list, or names separated by semicolons."
    )
    # protocol/sampling.py checks it, because the pairs in llama-server's list have mixed types.
    logit_bias: dict[str, Any] | list[Any] | None = Field(
        None, description='{"token id": bias} or [[token id or text, bias or false]]; false bans.'
    )
    ignore_eos: bool | None = Field(None, description="Ban the tokens that end an answer.")
    banned_strings: Annotated[list[ShortText], Field(max_length=MAX_BANNED)] | None = Field(
        None, description="Texts that never appear in the answer, in upper or lower case of ASCII letters."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="Tokens that end the answer and are not part of it."
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="The stop text is part of the answer. A token of stop_token_ids is not."
    )
    skip_special_tokens: bool | None = Field(
        None, description="false: control tokens that the model writes are part of the text."
    )
    return_token_ids: bool | None = Field(
        None, description="The answer has the ids of its tokens and of those of the prompt, as in vLLM."
    )

    # What the answer must match: docs/structured-output.md. protocol/constraint.py reads these fields.
    response_format: Annotated[dict[str, Any] | None, _UNLESS_EMPTY] = Field(
        None, description="JSON that matches a schema, any JSON object, a grammar or a text; see structured output."
    )
    json_schema: dict[str, Any] | bool | str | None = Field(
        None, description="A JSON Schema that the answer must match, as in llama-server."
    )
    grammar: GrammarText = Field(None, description="A grammar in GBNF, as in llama-server, or in Lark.")
    regex: GrammarText = Field(None, description="A regular expression that the whole answer must match.")
    lark: GrammarText = Field(None, description="A grammar in llguidance's Lark.")
    choice: Annotated[list[str] | None, _UNLESS_EMPTY] = Field(None, description="The answer is one of these texts.")
    guided_json: Annotated[dict[str, Any] | str | None, _UNLESS_EMPTY] = Field(
        None, description="A JSON Schema, or the JSON text of one, as in vLLM."
    )
    guided_regex: GrammarText = Field(None, description="The same as regex, as in vLLM.")
    guided_choice: Annotated[list[str] | None, _UNLESS_EMPTY] = Field(
        None, description="The same as choice, as in vLLM."
    )
    guided_grammar: GrammarText = Field(None, description="The same as grammar, as in vLLM.")
    structured_outputs: Annotated[dict[str, Any] | None, _UNLESS_EMPTY] = Field(
        None, description="One of `json`, `regex`, `choice`, `grammar` and `json_object`, as in vLLM."
    )
    format: Annotated[dict[str, Any] | str | None, _UNLESS_EMPTY] = Field(
        None, description="`json`, or a JSON Schema, as in Ollama."
    )
    grammar_string: GrammarText = Field(None, description="The same as grammar, as in text-generation-webui.")


class Message(StrictBody):
    """One message. Other keys (tool_calls, tool_call_id, reasoning_content, ...) reach the template."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    # protocol/messages.py checks the parts of a list, so that an error can name a wrong one.
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    name: str | None = Field(None, max_length=256)


class ChatBody(Common):
    """POST /v1/chat/completions"""

    model_config = ConfigDict(defer_build=False)

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] = Field(description="The conversation.")
    logprobs: bool | None = Field(None, description="Return the log-probability of each token.")
    top_logprobs: TopLogprobs | None = Field(None, description="And those of the most likely tokens in its place.")
    # protocol/tools.py checks the tools, so that the error names the place of a wrong one.
    tools: Objects | None = Field(None, description="Functions that the model may call.")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="`none`, `auto`, `required`, a function that must be called, or a list of allowed ones."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Allow several calls in one answer, which is the default, if the model can write them."
    )
    functions: Objects | None = Field(None, description="Older form of tools; the answer has a `function_call`.")
    function_call: str | dict[str, Any] | None = Field(None, description="Older form of tool_choice.")
    reasoning_effort: str | None = Field(
        None, max_length=64, description="How much the model thinks, if its chat template supports it; `none` is off."
    )
    enable_thinking: bool | None = Field(None, description="Turn thinking on or off, if the model has a switch.")
    # protocol/reasoning.py checks the fields of these two.
    thinking: bool | dict[str, Any] | None = Field(
        None, description='The same, or `{"type": "enabled" or "disabled", "budget_tokens": n}` as in Anthropic\'s API.'
    )
    reasoning: dict[str, Any] | None = Field(
        None, description="`effort`, `enabled`, `max_tokens` (the budget) and `exclude`, as in OpenRouter's API."
    )
    reasoning_format: Literal["auto", "deepseek", "deepseek-legacy", "none"] | None = Field(
        None,
        description="Where the reasoning goes: into `reasoning_content` (`auto`, `deepseek`), the content (`none`), "
        "or into both (`deepseek-legacy`).",
    )
    include_reasoning: bool | None = Field(None, description="False leaves the reasoning out of the answer.")
    thinking_budget_tokens: Window | None = Field(
        None, description="Tokens after which the thinking is ended; 0 ends it at once, -1 is no limit."
    )
    reasoning_budget_message: str | None = Field(
        None, max_length=MAX_TEXT, description="Text that ends the thinking when the budget is used up."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Variables for the chat template.")
    add_generation_prompt: bool | None = Field(None, description="Start an assistant message at the end.")
    continue_final_message: bool | None = Field(
        None, description="Continue the last message, which must be from the assistant."
    )


def _kind_of_prompt(prompt: object) -> str:
    """Return the tag of a prompt's form by its first item, so that an error refers to the form that was intended."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else None
    return "lists" if isinstance(first, list) else "tokens" if isinstance(first, int | float) else "texts"


class CompletionBody(Common):
    """POST /v1/completions"""

    model_config = ConfigDict(defer_build=False)

    prompt: Annotated[
        Annotated[str, Tag("text")]
        | Annotated[list[str], Field(min_length=1, fail_fast=True), Tag("texts")]
        | Annotated[TokenIds, Tag("tokens")]
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("lists")],
        Discriminator(_kind_of_prompt),
    ] = Field(description="A text, texts, token ids or lists of token ids.")
    logprobs: TopLogprobs | None = Field(
        None, description="Return the log-probability of each token and of this many others."
    )
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    suffix: str | None = Field(
        None, description="The text after the gap that the answer fills, for a model that has tokens for this."
    )
