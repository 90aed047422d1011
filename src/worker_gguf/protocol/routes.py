"""The table of routes, for HTTP, the queue, OpenAPI, the admission of several models and the traces."""

from __future__ import annotations

from typing import Final

import worker_gguf.protocol.openai.requests  # noqa: F401 - nearly every worker is asked for it
from worker_gguf.protocol.route import Route

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
    "OLLAMA_TAGS",
    "RESPONSES",
    "ROUTES",
]

_RESPONSES: Final = "responses.errors:RESPONSES_DIALECT"
_ANTHROPIC: Final = "anthropic.errors:ANTHROPIC"
_OLLAMA: Final = "ollama.errors:OLLAMA"
_LLAMA_SERVER: Final = "llama_server.errors:LLAMA_SERVER"

MODELS: Final = Route("GET", "/v1/models", "The models served here", "openai.models:MODELS")
MODEL: Final = Route("GET", "/v1/models/{model_id}", "One model", "openai.models:MODEL")
CHAT: Final = Route("POST", "/v1/chat/completions", "Answer a conversation", "openai.requests:CHAT", "chat")
COMPLETIONS: Final = Route(
    "POST", "/v1/completions", "Continue a text", "openai.requests:COMPLETIONS", "text_completion"
)
RESPONSES: Final = Route(
    "POST", "/v1/responses", "Answer a conversation", "responses.tasks:RESPONSES", "chat", _RESPONSES
)
INPUT_TOKENS: Final = Route(
    "POST",
    "/v1/responses/input_tokens",
    "Count the tokens of a conversation",
    "responses.tasks:INPUT_TOKENS",
    None,
    _RESPONSES,
)
MESSAGES: Final = Route(
    "POST", "/v1/messages", "Answer a conversation", "anthropic.requests:MESSAGES", "chat", _ANTHROPIC
)
COUNT_TOKENS: Final = Route(
    "POST",
    "/v1/messages/count_tokens",
    "Count the tokens of a conversation",
    "anthropic.requests:COUNT_TOKENS",
    None,
    _ANTHROPIC,
)
OLLAMA_TAGS: Final = Route("GET", "/api/tags", "The models served here", "ollama.listings:TAGS", dialect_import=_OLLAMA)
_OF_OLLAMA: Final = (
    Route("POST", "/api/chat", "Answer a conversation", "ollama.requests:CHAT", "chat", _OLLAMA),
    Route("POST", "/api/generate", "Answer a prompt", "ollama.requests:GENERATE", "text_completion", _OLLAMA),
    Route("POST", "/api/embed", "Make vectors of texts", "ollama.embed:EMBED", "embeddings", _OLLAMA),
    Route("POST", "/api/embeddings", "Make a vector of a text", "ollama.embed:EMBEDDINGS", "embeddings", _OLLAMA),
    OLLAMA_TAGS,
    Route("GET", "/api/ps", "The models in memory", "ollama.listings:PS", dialect_import=_OLLAMA),
    Route("POST", "/api/show", "One model", "ollama.listings:SHOW", dialect_import=_OLLAMA),
    Route("GET", "/api/version", "The version of Ollama's API", "ollama.listings:VERSION", dialect_import=_OLLAMA),
)
EMBEDDINGS: Final = Route(
    "POST", "/v1/embeddings", "Make vectors of texts", "pooling.embeddings:EMBEDDINGS", "embeddings"
)
RERANK: Final = Route("POST", "/v1/rerank", "Rank documents for a query", "pooling.rerank:RERANK", "rerank")
RERANK_OF_COHERE: Final = Route(
    "POST", "/v2/rerank", "The same, at the path of Cohere's API", "pooling.rerank:RERANK", "rerank"
)
RERANKING: Final = Route("POST", "/v1/reranking", "The same, at llama-server's path", "pooling.rerank:RERANK", "rerank")
SCORE: Final = Route("POST", "/v1/score", "Compare texts", "pooling.score:SCORE", "score")
LORA_ADAPTERS: Final = Route(
    "GET",
    "/lora-adapters",
    "The adapters of a model",
    "llama_server.listings:LORA_ADAPTERS",
    dialect_import=_LLAMA_SERVER,
)
# Next to llama-server's /completion stands no /completions, its other name: clients of OpenAI's API with a wrong base
# URL ask for that, and mean /v1/completions.
_OF_LLAMA_SERVER: Final = (
    Route(
        "POST",
        "/v1/chat/completions/input_tokens",
        "Count the tokens of a conversation",
        "llama_server.inspections:CHAT_TOKENS",
    ),
    Route(
        "POST",
        "/completion",
        "Continue a text, in llama-server's form",
        "llama_server.requests:COMPLETION",
        "text_completion",
        dialect_import=_LLAMA_SERVER,
    ),
    Route(
        "POST",
        "/infill",
        "Fill the gap between two texts",
        "llama_server.requests:INFILL",
        "text_completion",
        dialect_import=_LLAMA_SERVER,
    ),
    Route(
        "POST",
        "/tokenize",
        "Turn a text into tokens",
        "llama_server.inspections:TOKENIZE",
        dialect_import=_LLAMA_SERVER,
    ),
    Route(
        "POST",
        "/detokenize",
        "Turn tokens into a text",
        "llama_server.inspections:DETOKENIZE",
        dialect_import=_LLAMA_SERVER,
    ),
    Route(
        "POST",
        "/apply-template",
        "Show the prompt of a conversation",
        "llama_server.inspections:APPLY_TEMPLATE",
        dialect_import=_LLAMA_SERVER,
    ),
    Route("GET", "/props", "The properties of a model", "llama_server.listings:PROPS", dialect_import=_LLAMA_SERVER),
    Route(
        "GET",
        "/slots",
        "The state of the slots of a model",
        "llama_server.listings:SLOTS",
        dialect_import=_LLAMA_SERVER,
    ),
    LORA_ADAPTERS,
)
ROUTES: Final = (
    *(MODELS, MODEL, CHAT, COMPLETIONS, RESPONSES, INPUT_TOKENS),
    *(MESSAGES, COUNT_TOKENS),
    *(EMBEDDINGS, RERANK, RERANK_OF_COHERE, RERANKING, SCORE),
    *_OF_OLLAMA,
    *_OF_LLAMA_SERVER,
)
