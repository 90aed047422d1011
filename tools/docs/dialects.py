"""The tables of the pages about dialects, generated from their body models. The prose is by hand."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from tools.docs.api import bounds_text, type_text, with_tables
from tools.docs.markdown import table
from worker_gguf.protocol.pooling.bodies import EmbeddingsBody, PoolingBody, RerankBody, ScoreBody
from worker_gguf.protocol.responses.bodies import InputTokensBody, ResponsesBody

__all__ = ["DIALECT_PAGES", "dialect_pages"]

# The tables of each page by their names: a body, or the part of it that its parent does not have.
DIALECT_PAGES: dict[str, dict[str, type[BaseModel]]] = {
    "embeddings.md": {"shared": PoolingBody, "embeddings": EmbeddingsBody, "rerank": RerankBody, "score": ScoreBody},
    "responses.md": {"both": InputTokensBody, "responses": ResponsesBody},
}


def dialect_pages(written: Path) -> dict[str, str]:
    """Return the page of each dialect with its tables, by its name. `written` is the folder with the prose."""
    return {
        name: with_tables((written / name).read_text("utf-8"), {place: _fields(body) for place, body in bodies.items()})
        for name, bodies in DIALECT_PAGES.items()
    }


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
