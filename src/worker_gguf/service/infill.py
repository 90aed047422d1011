"""Builds the prompt that fills the gap between two texts, from the tokens that the model has for this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.calls import ExtraText, InfillCall

__all__ = ["FimTokenizer", "InfillPrompt", "infill_prompt"]

# Fixed names and a separator of llama-server's prompts, so that a model sees here what it sees there.
_PROJECT: Final = "myproject\n"
_FILE: Final = "filename\n"
_SNIPPET: Final = "\n\n--- snippet ---\n\n"


class FimTokenizer(Protocol):
    """The part of a vocabulary that such prompts need."""

    adds_bos: bool

    @property
    def bos(self) -> int | None: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def fim_token(self, kind: Literal["pre", "suf", "mid", "rep", "sep"]) -> int | None:
        """Return a token with which a model marks the parts of such a prompt, or None if it has none."""
        ...


class InfillPrompt(Struct, frozen=True):
    """The tokens of a prompt. `is_cut` if they have less than the request."""

    tokens: tuple[int, ...]
    is_cut: bool


def infill_prompt(call: InfillCall, tokenizer: FimTokenizer, n_ctx: int) -> InfillPrompt:
    """Build the prompt. Raises UnsupportedParameter if the model has no tokens for it.

    The extra texts come first, then the text before the gap, the text after it and the mark of the middle, where the
    answer begins. With `suffix_first`, the text after the gap comes before the one before it.
    """
    before, after, middle = _marks(tokenizer)
    prefix, suffix = _plain(tokenizer, call.prefix), _plain(tokenizer, call.suffix)
    begun = tokenizer.tokenize(call.begun, add_special=False, parse_special=True)
    extra = list(_extra(tokenizer, call.extra)) if call.extra is not None else []
    bos = [] if tokenizer.bos is None or not tokenizer.adds_bos else [tokenizer.bos]
    n_sent = len(prefix) + len(suffix) + len(extra)
    if call.fits_context:
        n_room = n_ctx - _n_answer(call, n_ctx) - len(bos) - 3 - len(begun)
        prefix, suffix, extra = _fitted(prefix, suffix, extra, max(0, n_room))
    is_cut = len(prefix) + len(suffix) + len(extra) < n_sent
    first, second = [before, *prefix, *begun], [after, *suffix]
    if call.suffix_first:
        first, second = second, first
    return InfillPrompt((*extra, *bos, *first, *second, middle), is_cut)


def _marks(tokenizer: FimTokenizer) -> tuple[int, int, int]:
    before, after, middle = (tokenizer.fim_token("pre"), tokenizer.fim_token("suf"), tokenizer.fim_token("mid"))
    if before is None or after is None or middle is None:
        raise UnsupportedParameter(
            "This model cannot fill gaps: its vocabulary has no tokens that mark the text before a gap, the text after "
            "it and the middle. Use a model for code that has these FIM tokens, or send the text as a prompt.",
            param="suffix",
        )
    return before, after, middle


def _plain(tokenizer: FimTokenizer, text: str) -> list[int]:
    """Tokenise a text in which names of special tokens have no meaning."""
    return tokenizer.tokenize(text, add_special=False, parse_special=False)


def _extra(tokenizer: FimTokenizer, texts: Sequence[ExtraText]) -> Iterable[int]:
    """Return the tokens of the extra texts, and of the head of the file with the gap."""
    repository, file = tokenizer.fim_token("rep"), tokenizer.fim_token("sep")
    if repository is not None:
        yield from (repository, *_plain(tokenizer, _PROJECT))
    for extra in texts:
        if file is None:
            yield from _plain(tokenizer, _SNIPPET)
        else:
            yield from (file, *_plain(tokenizer, f"{extra.filename}\n"))
        yield from _plain(tokenizer, extra.text)
    if file is not None:
        yield from (file, *_plain(tokenizer, _FILE))


def _n_answer(call: InfillCall, n_ctx: int) -> int:
    """Return the number of tokens to leave for the answer: what it may have, but at most half of the context."""
    wanted = n_ctx // 4 if call.options.max_tokens is None else call.options.max_tokens
    return max(1, min(wanted, n_ctx // 2))


def _fitted(
    prefix: list[int], suffix: list[int], extra: list[int], n_room: int
) -> tuple[list[int], list[int], list[int]]:
    """Keep what is nearest to the gap: three quarters of the room for the text before it, and the extra texts last."""
    n_suffix = min(len(suffix), max(n_room // 4, n_room - len(prefix)))
    n_prefix = min(len(prefix), n_room - n_suffix)
    n_extra = min(len(extra), n_room - n_prefix - n_suffix)
    return prefix[len(prefix) - n_prefix :], suffix[:n_suffix], extra[len(extra) - n_extra :]
