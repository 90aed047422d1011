"""The tables of the pages about dialects, generated from their body models. The prose is by hand."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from tools.docs.api import bounds_text, type_text, with_tables
from tools.docs.markdown import table
from worker_gguf.protocol.anthropic.bodies import CountTokensBody, MessagesBody
from worker_gguf.protocol.bodies import Common
from worker_gguf.protocol.llama_server.bodies import (
    AnsweredBody,
    DetokenizeBody,
    InfillBody,
    NativeCompletionBody,
    TokenizeBody,
)
from worker_gguf.protocol.ollama.bodies import (
    OllamaChat,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaGenerate,
    OllamaRequest,
    OllamaVectors,
)
from worker_gguf.protocol.ollama.names import IGNORED_OPTIONS, OPTIONS
from worker_gguf.protocol.parameters import ALIASES
from worker_gguf.protocol.pooling.bodies import EmbeddingsBody, PoolingBody, RerankBody, ScoreBody
from worker_gguf.protocol.responses.bodies import InputTokensBody, ResponsesBody

__all__ = ["DIALECT_PAGES", "dialect_pages"]

# The tables of each page by their names: a body, or the part of it that its parent does not have.
DIALECT_PAGES: dict[str, dict[str, type[BaseModel]]] = {
    "anthropic.md": {"both": CountTokensBody, "messages": MessagesBody},
    "embeddings.md": {"shared": PoolingBody, "embeddings": EmbeddingsBody, "rerank": RerankBody, "score": ScoreBody},
    "llama-server.md": {
        "both": AnsweredBody,
        "completion": NativeCompletionBody,
        "infill": InfillBody,
        "tokenize": TokenizeBody,
        "detokenize": DetokenizeBody,
    },
    "responses.md": {"both": InputTokensBody, "responses": ResponsesBody},
    "ollama.md": {
        "both": OllamaRequest,
        "chat": OllamaChat,
        "generate": OllamaGenerate,
        "vectors": OllamaVectors,
        "embed": OllamaEmbed,
        "embeddings": OllamaEmbeddings,
    },
}


def dialect_pages(written: Path) -> dict[str, str]:
    """Return the page of each dialect with its tables, by its name. `written` is the folder with the prose."""
    pages = {
        name: with_tables((written / name).read_text("utf-8"), {place: _fields(body) for place, body in bodies.items()})
        for name, bodies in DIALECT_PAGES.items()
    }
    options = {"options": _ollama_options(), "ignored": _ollama_ignored()}
    return pages | {"ollama.md": with_tables(pages["ollama.md"], options)}


def _ollama_options() -> str:
    """Return a row for each option of Ollama's API that is honoured."""
    properties = Common.model_json_schema()["properties"]
    rows = (
        (
            f"`{option}`",
            ", ".join(f"`{alias}`" for alias, target in ALIASES.items() if target == field and alias != option),
            type_text(properties[field]),
            bounds_text(properties[field]),
            Common.model_fields[field].description or "",
        )
        for option, field in OPTIONS.items()
    )
    return table(("Option", "Also as", "Type", "Bounds", "What it does"), rows)


def _ollama_ignored() -> str:
    """Return a row for each reason why an option has no effect."""
    reasons: dict[str, list[str]] = {}
    for option, reason in IGNORED_OPTIONS.items():
        reasons.setdefault(reason, []).append(f"`{option}`")
    return table(("Options", "Why they have no effect"), ((", ".join(names), why) for why, names in reasons.items()))


def _fields(body: type[BaseModel]) -> str:
    """Return a row for each field that a body itself defines."""
    schema = body.model_json_schema()
    rows = (
        (
            f"`{name}`",
            type_text(schema["properties"][name]),
            bounds_text(schema["properties"][name]),
            "yes" if body.model_fields[name].is_required() else "",
            body.model_fields[name].description or "",
        )
        for name in body.__annotations__
    )
    return table(("Name", "Type", "Bounds", "Required", "What it does"), rows)
