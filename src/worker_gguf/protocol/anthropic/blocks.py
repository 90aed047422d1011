"""Reads the blocks of a message in Anthropic's API: turns each into a part of a message in the common form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.images import SentImage, image_of_base64, image_of_url, image_part
from worker_gguf.protocol.validation import invalid, required

__all__ = ["Block", "Blocks", "Part", "blocks_of", "field", "text_part"]

Block = Mapping[str, Any]
Part = dict[str, Any]

# The fields that are read of each type.
_READ: Mapping[str, frozenset[str]] = {
    "text": frozenset({"text"}),
    "image": frozenset({"source"}),
    "document": frozenset({"source", "title", "context"}),
    "search_result": frozenset({"source", "title", "content"}),
    "thinking": frozenset({"thinking", "signature"}),
    "tool_use": frozenset({"id", "name", "input"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error"}),
    "tool_reference": frozenset({"tool_name"}),
}
# Claude Code begins its system prompt with this line. It is for the service that bills its requests, and its values
# change from request to request, so no two prompts would have a common beginning.
_BILLING = re.compile(r"x-anthropic-billing-header:(?:\s*[\w-]+=[^;\s]*;)*\s*")


class Blocks:
    """Reads blocks. `ignored` has the places of blocks and of fields in them that have no effect."""

    def __init__(self) -> None:
        self.ignored: list[str] = []

    def leave_out(self, param: str) -> None:
        """Note that a block or a field has no effect."""
        self.ignored.append(param)

    def kind(self, param: str, block: Block) -> str:
        """Return the type of a block, and note its fields that have no effect. Raises InvalidRequest."""
        kind: str = field(param, block, "type", str)
        if kind in _READ:
            unread = (name for name in block if name not in _READ[kind] and name != "type" and block[name] is not None)
            self.ignored += (f"{param}.{name}" for name in unread)
        return kind

    def texts(self, param: str, content: object) -> list[str]:
        """Return the texts of a content that can only have text: a text, or blocks of text."""
        if isinstance(content, str):
            return [content]
        texts: list[str] = []
        for at, block in blocks_of(param, content):
            if self.kind(at, block) != "text":
                raise invalid(f"{at}.type", "must be 'text'")
            texts.append(field(at, block, "text", str))
        return texts

    def system(self, content: object) -> str:
        """Return the text of a system prompt, without the line for the billing of Claude Code."""
        texts = self.texts("system", content)
        texts[:1] = (_BILLING.sub("", text, count=1) if _BILLING.match(text) else text for text in texts[:1])
        return "\n\n".join(filter(None, texts))

    def result(self, param: str, block: Block) -> str | list[Part]:
        """Return what a tool returned. The word that tells the model of an error comes first."""
        content = block.get("content")
        parts = [text_part("Error:")] if _flag(param, block, "is_error") else []
        if content is None or isinstance(content, str):
            return "\n".join([*(part["text"] for part in parts), content or ""]) if parts else content or ""
        return parts + [self._returned(at, each) for at, each in blocks_of(f"{param}.content", content)]

    def _returned(self, param: str, block: Block) -> Part:
        """Return the part of a block that a tool returned. history.py makes a text of one that is not supported."""
        try:
            return self.shown(param, block)
        except UnsupportedParameter:
            return {"type": block["type"]}

    def shown(self, param: str, block: Block) -> Part:
        """Return the part of a block that a user or a tool shows to the model. Raises InvalidRequest."""
        match self.kind(param, block):
            case "text":
                return text_part(field(param, block, "text", str))
            case "image":
                return image_part(_image(param, block))
            case "document":
                return text_part(self._document(param, block))
            case "search_result":
                found = self.texts(f"{param}.content", field(param, block, "content", list))
                about = (field(param, block, name, str) for name in ("title", "source"))
                return text_part("\n".join((*about, *found)))
            case "tool_reference":
                return text_part(field(param, block, "tool_name", str))
            case "thinking" | "redacted_thinking" | "tool_use" | "tool_result":
                raise invalid(f"{param}.type", "must be 'text', 'image', 'document' or 'search_result' here")
            case _:
                kind = str(block.get("type"))[:50]
                raise _unsupported(f"{param}.type", f"blocks of the type {kind!r} are not supported here")

    def _document(self, param: str, block: Block) -> str:
        """Return the text of a document, after its title and its context."""
        source = field(param, block, "source", dict)
        at = f"{param}.source"
        match field(at, source, "type", str):
            case "text":
                texts = [field(at, source, "data", str)]
            case "content":
                texts = self.texts(f"{at}.content", source.get("content"))
            case "base64" | "url" | "file":
                raise _unsupported(f"{at}.type", "only documents of plain text are supported. Send type 'text'")
            case _:
                raise invalid(f"{at}.type", "must be 'text' or 'content'")
        about = (field(param, block, name, str) for name in ("title", "context") if block.get(name) is not None)
        return "\n".join((*about, *texts))


def text_part(text: str) -> Part:
    return {"type": "text", "text": text}


def _image(param: str, block: Block) -> SentImage:
    """Return the image of a block. Raises InvalidRequest."""
    source = field(param, block, "source", dict)
    at = f"{param}.source"
    match field(at, source, "type", str):
        case "base64":
            if not field(at, source, "media_type", str).lower().startswith("image/"):
                raise invalid(f"{at}.media_type", "must begin with image/")
            return image_of_base64(f"{at}.data", field(at, source, "data", str))
        case "url":
            return image_of_url(f"{at}.url", field(at, source, "url", str))
        case "file":
            raise _unsupported(f"{at}.type", "there are no uploaded files here. Send type 'base64'")
        case _:
            raise invalid(f"{at}.type", "must be 'base64' or 'url'")


def field(param: str, block: Block, name: str, kind: type[Any]) -> Any:
    """Return a field of a block. Raises InvalidRequest if it is missing or of another type."""
    value = block.get(name)
    if value is None:
        raise required(f"{param}.{name}")
    if not isinstance(value, kind):
        names: Mapping[type, str] = {str: "a string", dict: "an object", list: "a list"}
        raise invalid(f"{param}.{name}", f"must be {names[kind]}")
    return value


def _unsupported(param: str, what: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Invalid '{param}': {what}.", param=param)


def _flag(param: str, block: Block, name: str) -> bool:
    value = block.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{param}.{name}", "must be true or false")
    return bool(value)


def blocks_of(param: str, content: object) -> Iterable[tuple[str, Block]]:
    """Return the blocks of a content with their places. Raises InvalidRequest."""
    if not isinstance(content, list):
        raise required(param) if content is None else invalid(param, "must be a text or a list of blocks")
    blocks: Sequence[object] = content
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise invalid(f"{param}.{number}", "must be an object")
        yield f"{param}.{number}", block
