"""Text to tokens, tokens to text, a conversation to the text of its prompt, and the number of its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from worker_gguf.protocol.bodies import ChatBody
from worker_gguf.protocol.calls import Defaults, InspectionCall, MixedPrompt
from worker_gguf.protocol.llama_server.bodies import DetokenizeBody, TokenizeBody
from worker_gguf.protocol.llama_server.prompts import read_content
from worker_gguf.protocol.parse import chat_call
from worker_gguf.protocol.route import Inspection, Inspector, n_prompt_tokens
from worker_gguf.protocol.screening import unknown_names
from worker_gguf.protocol.validation import validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["APPLY_TEMPLATE", "CHAT_TOKENS", "DETOKENIZE", "TOKENIZE"]


class TokenizeCall(InspectionCall, frozen=True, kw_only=True):
    parts: tuple[str | int, ...]
    add_special: bool
    parse_special: bool
    with_pieces: bool


class DetokenizeCall(InspectionCall, frozen=True, kw_only=True):
    tokens: tuple[int, ...]


def parse_tokenize(body: object, defaults: Defaults) -> TokenizeCall:
    """Parse the body of POST /tokenize. Raises InvalidRequest."""
    fields = read_object(body)
    parsed = validated(TokenizeBody, fields, {})
    content = read_content(parsed.content, "content")
    parts = content.parts if isinstance(content, MixedPrompt) else (content,) if isinstance(content, str) else content
    return TokenizeCall(
        model=parsed.model or None,
        ignored=unknown_names(TokenizeBody, fields, defaults),
        parts=parts,
        add_special=bool(parsed.add_special),
        parse_special=parsed.parse_special is not False,
        with_pieces=bool(parsed.with_pieces),
    )


def parse_detokenize(body: object, defaults: Defaults) -> DetokenizeCall:
    """Parse the body of POST /detokenize. Raises InvalidRequest."""
    fields = read_object(body)
    parsed = validated(DetokenizeBody, fields, {})
    ignored = unknown_names(DetokenizeBody, fields, defaults)
    return DetokenizeCall(model=parsed.model or None, ignored=ignored, tokens=tuple(parsed.tokens))


def parse_conversation(body: object, defaults: Defaults) -> InspectionCall:
    """Parse the body of a route that inspects a conversation. Raises InvalidRequest."""
    call = chat_call(read_object(body), defaults)
    return InspectionCall(model=call.model, ignored=call.options.ignored, chat=call)


def _tokenize(call: TokenizeCall, inspector: Inspector) -> dict[str, Any]:
    tokens = list(_tokens(call, inspector))
    if not call.with_pieces:
        return {"tokens": tokens}
    return {"tokens": [{"id": token, "piece": _piece(inspector.piece(token))} for token in tokens]}


def _tokens(call: TokenizeCall, inspector: Inspector) -> Iterable[int]:
    # This refuses ids that the model does not have.
    inspector.text([part for part in call.parts if isinstance(part, int)], "content")
    for place, part in enumerate(call.parts):
        if isinstance(part, int):
            yield part
        else:
            is_first = place == 0
            yield from inspector.tokenize(
                part, add_special=call.add_special and is_first, parse_special=call.parse_special
            )


def _piece(piece: bytes) -> str | list[int]:
    """Return the text of a token, or its bytes if they are not whole characters."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)


def _detokenize(call: DetokenizeCall, inspector: Inspector) -> dict[str, Any]:
    return {"content": inspector.text(call.tokens, "tokens")}


def _apply_template(call: InspectionCall, inspector: Inspector) -> dict[str, Any]:
    assert call.chat is not None
    return {"prompt": inspector.prompt_text(call.chat)}


def _input_tokens(call: InspectionCall, inspector: Inspector) -> dict[str, Any]:
    return {"input_tokens": n_prompt_tokens(call, inspector), "object": "response.input_tokens"}


TOKENIZE: Final = Inspection(TokenizeBody, parse_tokenize, _tokenize)
DETOKENIZE: Final = Inspection(DetokenizeBody, parse_detokenize, _detokenize)
APPLY_TEMPLATE: Final = Inspection(ChatBody, parse_conversation, _apply_template, ("completion",))
CHAT_TOKENS: Final = Inspection(ChatBody, parse_conversation, _input_tokens, ("completion",))
