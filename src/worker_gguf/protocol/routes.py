"""The table of routes, for HTTP, the queue, OpenAPI, the admission of several models and the traces."""

from __future__ import annotations

from typing import Final

from worker_gguf.protocol.anthropic.errors import ANTHROPIC
from worker_gguf.protocol.llama_server.errors import LLAMA_SERVER
from worker_gguf.protocol.ollama.errors import OLLAMA
from worker_gguf.protocol.openai import requests
from worker_gguf.protocol.responses.errors import RESPONSES_DIALECT
from worker_gguf.protocol.route import Generation, Inspection, Listing, Pooling, Route

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "COUNT_TOKENS",
    "EMBEDDINGS",
    "INPUT_TOKENS",
    "LORA_ADAPTERS",
    "MESSAGES",
    "MODEL",
    "MODELS",
    "RESPONSES",
    "ROUTES",
]

# The functions below import what a route does when the first request for it comes. What nearly every worker is asked
# for is imported with this module, while the model loads.


def _responses() -> Generation:
    from worker_gguf.protocol.responses.tasks import RESPONSES

    return RESPONSES


def _input_tokens() -> Inspection:
    from worker_gguf.protocol.responses.tasks import INPUT_TOKENS

    return INPUT_TOKENS


def _messages() -> Generation:
    from worker_gguf.protocol.anthropic.requests import MESSAGES

    return MESSAGES


def _count_tokens() -> Inspection:
    from worker_gguf.protocol.anthropic.requests import COUNT_TOKENS

    return COUNT_TOKENS


def _embeddings() -> Pooling:
    from worker_gguf.protocol.pooling.embeddings import EMBEDDINGS

    return EMBEDDINGS


def _rerank() -> Pooling:
    from worker_gguf.protocol.pooling.rerank import RERANK

    return RERANK


def _score() -> Pooling:
    from worker_gguf.protocol.pooling.score import SCORE

    return SCORE


def _models() -> Listing:
    from worker_gguf.protocol.openai.models import MODELS

    return MODELS


def _model() -> Listing:
    from worker_gguf.protocol.openai.models import MODEL

    return MODEL


def _ollama_chat() -> Generation:
    from worker_gguf.protocol.ollama.requests import CHAT

    return CHAT


def _ollama_generate() -> Generation:
    from worker_gguf.protocol.ollama.requests import GENERATE

    return GENERATE


def _ollama_embed() -> Pooling:
    from worker_gguf.protocol.ollama.embed import EMBED

    return EMBED


def _ollama_embeddings() -> Pooling:
    from worker_gguf.protocol.ollama.embed import EMBEDDINGS

    return EMBEDDINGS


def _ollama_tags() -> Listing:
    from worker_gguf.protocol.ollama.listings import TAGS

    return TAGS


def _ollama_ps() -> Listing:
    from worker_gguf.protocol.ollama.listings import PS

    return PS


def _ollama_show() -> Listing:
    from worker_gguf.protocol.ollama.listings import SHOW

    return SHOW


def _ollama_version() -> Listing:
    from worker_gguf.protocol.ollama.listings import VERSION

    return VERSION


def _native_completion() -> Generation:
    from worker_gguf.protocol.llama_server.requests import COMPLETION

    return COMPLETION


def _infill() -> Generation:
    from worker_gguf.protocol.llama_server.requests import INFILL

    return INFILL


def _tokenize() -> Inspection:
    from worker_gguf.protocol.llama_server.inspections import TOKENIZE

    return TOKENIZE


def _detokenize() -> Inspection:
    from worker_gguf.protocol.llama_server.inspections import DETOKENIZE

    return DETOKENIZE


def _apply_template() -> Inspection:
    from worker_gguf.protocol.llama_server.inspections import APPLY_TEMPLATE

    return APPLY_TEMPLATE


def _chat_tokens() -> Inspection:
    from worker_gguf.protocol.llama_server.inspections import CHAT_TOKENS

    return CHAT_TOKENS


def _props() -> Listing:
    from worker_gguf.protocol.llama_server.listings import PROPS

    return PROPS


def _slots() -> Listing:
    from worker_gguf.protocol.llama_server.listings import SLOTS

    return SLOTS


def _lora_adapters() -> Listing:
    from worker_gguf.protocol.llama_server.listings import LORA_ADAPTERS

    return LORA_ADAPTERS


MODELS: Final = Route("GET", "/v1/models", "The models served here", _models)
MODEL: Final = Route("GET", "/v1/models/{model_id}", "One model", _model)
CHAT: Final = Route("POST", "/v1/chat/completions", "Answer a conversation", lambda: requests.CHAT, "chat")
COMPLETIONS: Final = Route(
    "POST", "/v1/completions", "Continue a text", lambda: requests.COMPLETIONS, "text_completion"
)
RESPONSES: Final = Route("POST", "/v1/responses", "Answer a conversation", _responses, "chat", RESPONSES_DIALECT)
INPUT_TOKENS: Final = Route(
    "POST", "/v1/responses/input_tokens", "Count the tokens of a conversation", _input_tokens, None, RESPONSES_DIALECT
)
MESSAGES: Final = Route("POST", "/v1/messages", "Answer a conversation", _messages, "chat", ANTHROPIC)
COUNT_TOKENS: Final = Route(
    "POST", "/v1/messages/count_tokens", "Count the tokens of a conversation", _count_tokens, None, ANTHROPIC
)
_OF_OLLAMA: Final = (
    Route("POST", "/api/chat", "Answer a conversation", _ollama_chat, "chat", OLLAMA),
    Route("POST", "/api/generate", "Answer a prompt", _ollama_generate, "text_completion", OLLAMA),
    Route("POST", "/api/embed", "Make vectors of texts", _ollama_embed, "embeddings", OLLAMA),
    Route("POST", "/api/embeddings", "Make a vector of a text", _ollama_embeddings, "embeddings", OLLAMA),
    Route("GET", "/api/tags", "The models served here", _ollama_tags, dialect=OLLAMA),
    Route("GET", "/api/ps", "The models in memory", _ollama_ps, dialect=OLLAMA),
    Route("POST", "/api/show", "One model", _ollama_show, dialect=OLLAMA),
    Route("GET", "/api/version", "The version of Ollama's API", _ollama_version, dialect=OLLAMA),
)
EMBEDDINGS: Final = Route("POST", "/v1/embeddings", "Make vectors of texts", _embeddings, "embeddings")
RERANK: Final = Route("POST", "/v1/rerank", "Rank documents for a query", _rerank, "rerank")
RERANK_OF_COHERE: Final = Route("POST", "/v2/rerank", "The same, at the path of Cohere's API", _rerank, "rerank")
RERANKING: Final = Route("POST", "/v1/reranking", "The same, at llama-server's path", _rerank, "rerank")
SCORE: Final = Route("POST", "/v1/score", "Compare texts", _score, "score")
LORA_ADAPTERS: Final = Route("GET", "/lora-adapters", "The adapters of a model", _lora_adapters, dialect=LLAMA_SERVER)
# Next to llama-server's /completion stands no /completions, its other name: clients of OpenAI's API with a wrong base
# URL ask for that, and mean /v1/completions.
_LLAMA_SERVER: Final = (
    Route(
        "POST",
        "/v1/chat/completions/input_tokens",
        "Count the tokens of a conversation",
        _chat_tokens,
    ),
    Route(
        "POST",
        "/completion",
        "Continue a text, in llama-server's form",
        _native_completion,
        "text_completion",
        dialect=LLAMA_SERVER,
    ),
    Route("POST", "/infill", "Fill the gap between two texts", _infill, "text_completion", dialect=LLAMA_SERVER),
    Route("POST", "/tokenize", "Turn a text into tokens", _tokenize, dialect=LLAMA_SERVER),
    Route("POST", "/detokenize", "Turn tokens into a text", _detokenize, dialect=LLAMA_SERVER),
    Route("POST", "/apply-template", "Show the prompt of a conversation", _apply_template, dialect=LLAMA_SERVER),
    Route("GET", "/props", "The properties of a model", _props, dialect=LLAMA_SERVER),
    Route("GET", "/slots", "The state of the slots of a model", _slots, dialect=LLAMA_SERVER),
    LORA_ADAPTERS,
)
ROUTES: Final = (
    *(MODELS, MODEL, CHAT, COMPLETIONS, RESPONSES, INPUT_TOKENS),
    *(MESSAGES, COUNT_TOKENS),
    *(EMBEDDINGS, RERANK, RERANK_OF_COHERE, RERANKING, SCORE),
    *_OF_OLLAMA,
    *_LLAMA_SERVER,
)
