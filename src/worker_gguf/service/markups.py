"""Finds how the model of each chat template writes, and which tokens of the vocabulary its markers are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from worker_gguf.engine.request import Constraint, Thinking
from worker_gguf.errors import NotReady
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parts import PartsParser
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.template.chat_template import ChatTemplate
from worker_gguf.template.limits import TemplateLimits, limited

__all__ = ["KnownMarkup", "Markups", "NewMarkup", "Pieces", "TemplateMarkup"]

logger = logging.getLogger(__name__)


class Pieces(Protocol):
    """The part of a vocabulary that tells what a token is. Thread-safe."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """Return the token's bytes as they appear in an answer. Control tokens are empty."""
        ...


class TemplateMarkup(Protocol):
    """How the model of one chat template writes: `worker_gguf.markup.markup.Markup`."""

    @property
    def format(self) -> CallFormat: ...

    @property
    def markers(self) -> tuple[str, ...]: ...

    def parser(
        self, prompt: str, tools: Sequence[Tool] = (), *, splits_reasoning: bool = True, holds_calls: bool = False
    ) -> PartsParser: ...

    def thinking(self, prompt: str) -> Thinking | None: ...

    def call_constraint(self, use: ToolUse, token_of: Callable[[str], int | None]) -> Constraint: ...


# Of all renderings of an examination together. What a template does not show in this time counts as not there.
_EXAMINATION = TemplateLimits(timeout_s=5.0)
# The marks of a format have a few hundred texts that may be a control token.
_MOST_TEXTS = 4096
# Takes the source of a template, what renders it, and what tells whether a text is one token.
NewMarkup = Callable[[str, Callable[..., str], Callable[[str], bool]], TemplateMarkup]


class KnownMarkup(Struct, frozen=True):
    """The markup of a template, and the ids of those of its markers that are control tokens.

    `shown_without_tools` are those that a parser needs which looks for no calls.
    """

    markup: TemplateMarkup
    shown: frozenset[int]
    shown_without_tools: frozenset[int]


class Markups:
    """The markup of each template of one model, found when it is first needed. Thread-safe."""

    def __init__(self, pieces: Pieces, new_markup: NewMarkup | None = None) -> None:
        """`new_markup` is `Markup.of_template` unless a test has another."""
        self._pieces = pieces
        self._new_markup = new_markup
        self._lock = threading.Lock()
        self._finder: ThreadPoolExecutor | None = None
        self._found: dict[ChatTemplate, Future[KnownMarkup]] = {}
        self._is_settled = False
        self._control_token = lru_cache(_MOST_TEXTS)(self._find_control_token)

    def of(self, template: ChatTemplate) -> KnownMarkup:
        """Return the markup of a template, when it is found."""
        return self.find(template).result()

    def find(self, template: ChatTemplate) -> Future[KnownMarkup]:
        """Begin to find the markup of a template in another thread, unless that has begun.

        It renders several dozen small conversations, and the modules that compare them are imported for it: some 50 ms,
        or, where a template is very slow, as long as the limit allows. If it fails, the next call tries again. Raises
        NotReady after `settle`.
        """
        if (found := self._found.get(template)) is not None:
            return found
        with self._lock:
            if (found := self._found.get(template)) is not None:
                return found
            if self._is_settled:
                raise NotReady("The model is being unloaded. Try again shortly.", retry_after_s=1)
            if self._finder is None:
                self._finder = ThreadPoolExecutor(1, "templates")
            found = self._found[template] = self._finder.submit(self._examine, template)
        return found

    def settle(self) -> None:
        """Wait until no thread uses the vocabulary any more. Nothing is examined after that."""
        with self._lock:
            self._is_settled, finder = True, self._finder
        if finder is not None:
            finder.shutdown(cancel_futures=True)

    def _examine(self, template: ChatTemplate) -> KnownMarkup:
        try:
            with limited(_EXAMINATION):
                _ = template.shape  # kept by the template
                markup = self._markup(template)
                needed = tuple(_without_calls(markup.format, markup.markers))
            return KnownMarkup(markup, self._shown(markup.markers), self._shown(needed))
        except Exception:
            logger.exception("the chat template cannot be examined, so a chat failed: set CHAT_TEMPLATE to another")
            with self._lock:
                del self._found[template]
            raise

    def _markup(self, template: ChatTemplate) -> TemplateMarkup:
        new_markup = self._new_markup
        if new_markup is None:
            from worker_gguf.markup.markup import Markup

            new_markup = Markup.of_template
        return new_markup(template.source, template.render, lambda text: len(self._tokens(text)) == 1)

    def control_token(self, text: str) -> int | None:
        """Return the id of the control token that is written so, or None."""
        return self._control_token(text)

    def _find_control_token(self, text: str) -> int | None:
        tokens = self._tokens(text)
        return tokens[0] if len(tokens) == 1 and not self._pieces.piece(tokens[0]) else None

    def leading_marker(self, text: str) -> int | None:
        """Return the id of the marker with which a text begins, if it is one token and the only marker in the text.

        A marker is a control token, or one in brackets such as `<tool_call>`, which no other text needs.
        """
        tokens = self._tokens(text.strip())
        if not tokens or not _is_marker(self._pieces.piece(tokens[0])):
            return None
        return tokens[0] if all(self._pieces.piece(token) for token in tokens[1:]) else None

    def _tokens(self, text: str) -> list[int]:
        return self._pieces.tokenize(text, add_special=False, parse_special=True)

    def _shown(self, markers: Iterable[str]) -> frozenset[int]:
        tokens = (self.control_token(marker) for marker in markers)
        return frozenset(token for token in tokens if token is not None)


def _without_calls(call_format: CallFormat, markers: Iterable[str]) -> Iterable[str]:
    """Return the markers of reasoning and content. With channels, calls are in the same messages as these."""
    if call_format.channels is not None:
        return markers
    texts = (call_format.reasoning_start, *call_format.reasoning_ends, call_format.content_start)
    texts += (call_format.content_end, *call_format.ignored)
    return (marker for marker in markers if any(marker in text for text in texts))


def _is_marker(piece: bytes) -> bool:
    return not piece or (len(piece) > 2 and piece[:1] + piece[-1:] in (b"<>", b"[]"))
