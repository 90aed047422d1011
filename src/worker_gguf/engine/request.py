"""A request to generate, or to pool an input, as frozen values. Knows nothing of HTTP, templates or llama.cpp."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.image_runs import ImageRun

__all__ = [
    "DEFAULT_SAMPLERS",
    "MAX_STOPS",
    "SAMPLERS",
    "Constraint",
    "GenerationRequest",
    "GrammarKind",
    "LineLimits",
    "PoolingRequest",
    "SamplingParams",
    "Thinking",
]

GrammarKind = Literal["choice", "gbnf", "json_schema", "lark", "regex"]

# The default order and the names of llama-server (tools/server/README of llama.cpp).
DEFAULT_SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
SAMPLERS = (*DEFAULT_SAMPLERS, "adaptive_p", "infill")
MAX_STOPS = 256


class SamplingParams(Struct, frozen=True):
    """Parameters of drawing the next token. Names and neutral values are those of llama-server.

    `temperature <= 0` is greedy. `seed` None means a random seed. `logit_bias` pairs a token id with the number that is
    added to its logit; minus infinity bans the token. `top_k <= 0`, `top_p = 1`, `min_p = 0`, `typical_p = 1`,
    `top_n_sigma < 0`, `xtc_probability = 0`, `dry_multiplier = 0`, `repeat_penalty = 1`, the other penalties at 0,
    `mirostat = 0`, `adaptive_target < 0`, `smoothing_factor = 0`, `top_a = 0` and `no_repeat_ngram_size = 0` switch the
    sampler off. The last three and their names are those of text-generation-webui. `repeat_last_n` and
    `dry_penalty_last_n` are numbers of tokens; -1 means the whole context.
    """

    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    smoothing_factor: float = 0.0
    smoothing_curve: float = 1.0
    top_a: float = 0.0
    no_repeat_ngram_size: int = 0
    min_keep: int = 0
    seed: int | None = None
    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False


class Constraint(Struct, frozen=True):
    """What the text of an answer must match.

    `grammar` is a text in the language of `kind`: a JSON list of texts for "choice", a JSON Schema for "json_schema".
    With `triggers`, the answer is free until one of these texts, and what follows it must match; after the match, the
    answer is free again, or ends if `is_last`. If `only_at_start`, a trigger counts only at the beginning of the
    answer. Without `triggers`, the whole answer must match. With `is_lenient`, parts of a JSON Schema that cannot be
    guaranteed are left out. `param` is the field of the request's body that errors name.
    """

    kind: GrammarKind
    grammar: str
    triggers: tuple[str, ...] = ()
    only_at_start: bool = False
    is_last: bool = False
    is_lenient: bool = False
    param: str | None = None


class Thinking(Struct, frozen=True):
    """Where a model thinks before its answer. What it thinks need not match the constraint of the request.

    `start` opens the thinking, "" if only the prompt does; `is_open` if the prompt ends inside it. Each of `ends` ends
    it. After `budget` tokens it is ended by force, with `message` and the first of `ends`; None means no limit.
    """

    start: str
    ends: tuple[str, ...]
    is_open: bool = False
    budget: int | None = None
    message: str = ""


class LineLimits(Struct, frozen=True):
    """Where the lines of an answer end it.

    A line after the first one that has a character before so many spaces and tabs ends the answer there; 0 is off. So
    does the first end of a line later than so many seconds after the first token.
    """

    min_indent: int = 0
    max_s: float | None = None


class GenerationRequest(Struct, frozen=True):
    """One sequence to generate: the prompt as token ids, and all parameters of the answer.

    `max_tokens` None means up to the end of the context. End-of-generation tokens are banned until `min_tokens` tokens
    have been drawn; so are `stop_tokens`, which end the answer, too. `stop` lists texts that end the answer and are not
    part of it, unless with `keeps_stop`. None of `banned_texts` is part of the answer, in upper or lower case of ASCII.
    `top_logprobs` None means no log-probabilities, and 0 means only those of the drawn tokens. `deadline_s` is a
    reading of `time.monotonic()`. Requests with a lower `priority` go first. The texts of control tokens in `shown` are
    part of the text of the answer; those of others are left out. With `prompt_logprobs`, the log-probabilities of the
    prompt's tokens are wanted, too, and of so many others in the place of each; then `cache_prompt` must be false.
    All tokens, those of the prompt too, are computed with `adapters`.

    `images` are the files of the images for which IMAGE stands in the prompt, in order. When they are encoded,
    the prompt has a negative id for each of their rows instead, and `runs` tells where these are. `image_params`
    are the fields of the request's body that errors name, one for each image, if they are known.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    cache_prompt: bool = True
    deadline_s: float | None = None
    priority: int = 0
    constraint: Constraint | None = None
    thinking: Thinking | None = None
    shown: frozenset[int] = frozenset()
    stop_tokens: frozenset[int] = frozenset()
    keeps_stop: bool = False
    banned_texts: tuple[str, ...] = ()
    prompt_logprobs: int | None = None
    lines: LineLimits | None = None
    adapters: AdapterSet = ()
    images: tuple[bytes, ...] = ()
    image_params: tuple[str, ...] = ()
    runs: tuple[ImageRun, ...] = ()

    @property
    def is_guided(self) -> bool:
        """It asks for something that samplers cannot do, and must be prepared before it runs."""
        has_budget = self.thinking is not None and self.thinking.budget is not None
        return self.constraint is not None or has_budget or bool(self.banned_texts)


class PoolingRequest(Struct, frozen=True):
    """One input of which a model makes a vector or scores: its text, or its pair of texts, as token ids.

    `deadline_s` and `priority` are those of a GenerationRequest.
    """

    id: str
    prompt: tuple[int, ...]
    priority: int = 0
    deadline_s: float | None = None
