"""The vocabulary of a model: text to tokens, tokens to bytes, special tokens. Thread-safe once created."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from worker_gguf.constraints.tokens import TokenTable
from worker_gguf.engine.runner import SpecialTokens
from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.bindings import llama_cpp

# Only a model with BERT's vocabulary imports it, so that the start of others does not wait for it.
if TYPE_CHECKING:
    from worker_gguf.llama.word_pieces import WordPieces

__all__ = ["Vocabulary"]

_NONE = -1
# Other threads run between slices of a loop that keeps the interpreter lock. A slice takes 2 ms.
_SLICE = 4096
# llama.h: enum llama_token_attr
_UNKNOWN, _CONTROL = 1 << 0, 1 << 3
# llama.h: enum llama_vocab_type
_NO_VOCABULARY, _SENTENCE_PIECE, _WORD_PIECE = 0, 1, 3
_UNKNOWN_OF_BERT = 100  # llama.cpp's default


def _locked(function: object, result: type, *arguments: type) -> Callable[..., Any]:
    """Return a function of llama.cpp that keeps the interpreter lock while it is called, for loops over all tokens.

    A call that gives it up has to wait for it afterwards as long as other threads run Python (`interpreter.py`).
    """
    address = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert address is not None
    return ctypes.PYFUNCTYPE(result, *arguments)(address)


_is_eog = _locked(llama_cpp.llama_vocab_is_eog, ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32)
_attributes_of = _locked(llama_cpp.llama_vocab_get_attr, ctypes.c_int, ctypes.c_void_p, ctypes.c_int32)
_piece_of = _locked(
    llama_cpp.llama_token_to_piece,
    ctypes.c_int32,
    *(ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_bool),
)
_text_of = _locked(llama_cpp.llama_vocab_get_text, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32)


_FIM: Final[Mapping[str, Callable[[llama_cpp.llama_vocab_p], int]]] = MappingProxyType(
    {
        "pre": llama_cpp.llama_vocab_fim_pre,
        "suf": llama_cpp.llama_vocab_fim_suf,
        "mid": llama_cpp.llama_vocab_fim_mid,
        "rep": llama_cpp.llama_vocab_fim_rep,
        "sep": llama_cpp.llama_vocab_fim_sep,
    }
)


class Vocabulary:
    """Wraps llama.cpp's vocabulary. It is valid until its model is closed."""

    def __init__(self, model: llama_cpp.llama_model_p, close: Callable[[], None] = lambda: None) -> None:
        """`close` frees the model, if the vocabulary owns it."""
        self.close = close
        pointer = llama_cpp.llama_model_get_vocab(model)
        assert pointer is not None
        self.pointer: llama_cpp.llama_vocab_p = pointer
        self.n_tokens: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self.kind: int = llama_cpp.llama_vocab_type(self.pointer)
        """llama.h: enum llama_vocab_type."""
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self.pointer))
        self.adds_eos = bool(llama_cpp.llama_vocab_get_add_eos(self.pointer))
        self.adds_separator = bool(llama_cpp.llama_vocab_get_add_sep(self.pointer))
        self._bos: int | None = None
        self._eos: int | None = None
        self._pieces: list[bytes | None] = [None] * self.n_tokens
        self.suppressed = self._read_suppressed()
        self._eog: frozenset[int] | None = None
        self._has_word_pieces = self.kind == _WORD_PIECE and all(
            _stated(model, f"normalizer.{name}") != "false" for name in ("lowercase", "strip_accents")
        )
        self._unknown = int(_stated(model, "unknown_token_id") or _UNKNOWN_OF_BERT)
        self._word_pieces: WordPieces | None = None

    def why_unusable(self) -> str | None:
        """Return why llama.cpp, which does not check these facts, would end the process at the first text, or None."""
        if self.kind == _NO_VOCABULARY:
            return "a model without a vocabulary, which cannot read text"
        if self.kind == _SENTENCE_PIECE and (n_missing := self._n_missing_bytes()):
            return f"a model whose vocabulary lacks {n_missing} of the 256 bytes that encode other characters"
        return None

    def _n_missing_bytes(self) -> int:
        """Count the bytes that have no token, neither as `<0x0A>` nor as themselves."""
        missing = {b"<0x%02X>" % byte: byte for byte in range(256)} | {bytes([byte]): byte for byte in range(256)}
        left = set(range(256))
        for token in range(self.n_tokens):  # these tokens usually come first
            left.discard(missing.get(_text_of(self.pointer, token), -1))
            if not left:
                break
        return len(left)

    def adopt(self, bos: int | None, eos: Sequence[int]) -> None:
        """Replace special tokens that are wrong in the model's file. Call it before anything else reads them.

        Searches for the end-of-generation tokens.
        """
        self._bos = bos if bos != self.bos else None  # llama.cpp adds the BOS of the file on its own
        if eos:
            self._eos = eos[0]
        self._eog = self.eog | frozenset(eos)

    @property
    def eog(self) -> frozenset[int]:
        """The end-of-generation tokens. The first call asks for each token of the vocabulary."""
        if self._eog is None:
            eog: set[int] = set()
            for begin in range(0, self.n_tokens, _SLICE):
                tokens = range(begin, min(begin + _SLICE, self.n_tokens))
                eog.update(compress(tokens, map(_is_eog, repeat(self.pointer), tokens)))
            self._eog = frozenset(eog)
        return self._eog

    @property
    def special(self) -> SpecialTokens:
        """The tokens that the engine must know."""
        return SpecialTokens(self.eog, self.suppressed)

    @property
    def bos(self) -> int | None:
        if self._bos is not None:
            return self._bos
        token = llama_cpp.llama_vocab_bos(self.pointer)
        return None if token == _NONE else int(token)

    @property
    def eos(self) -> int | None:
        if self._eos is not None:
            return self._eos
        token = llama_cpp.llama_vocab_eos(self.pointer)
        return None if token == _NONE else int(token)

    @property
    def separator(self) -> int | None:
        """The token between two texts."""
        token = llama_cpp.llama_vocab_sep(self.pointer)
        return None if token == _NONE else int(token)

    def fim_token(self, kind: Literal["pre", "suf", "mid", "rep", "sep"]) -> int | None:
        """Return a token that marks a part of a prompt with a gap, or None if the model has none."""
        token = int(_FIM[kind](self.pointer))
        return None if token == _NONE else token

    def token_text(self, token: int | None) -> str:
        """Return a special token as a chat template writes it, or an empty string for None."""
        if token is None:
            return ""
        text = llama_cpp.llama_vocab_get_text(self.pointer, token)
        return text.decode("utf-8", "replace") if text else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Convert text to tokens. Raises InvalidRequest if the text cannot be tokenised.

        `add_special` adds BOS and EOS if the model asks for them. `parse_special` converts text such as `<|eot_id|>` to
        the special tokens that it names.
        """
        if add_special and self._bos is not None:
            tokens_of_text = self.tokenize(text, add_special=False, parse_special=parse_special)
            return [self._bos, *tokens_of_text] if self.adds_bos else tokens_of_text
        if self._has_word_pieces:
            from worker_gguf.llama.word_pieces import differs

            if differs(text):
                return self._published(text, add_special=add_special, parse_special=parse_special)
        raw = text.encode("utf-8")
        if len(raw) >= 2**31:
            raise InvalidRequest("The text has 2 GiB or more, which the tokenizer does not accept.")
        room = len(raw) + 8
        tokens = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.pointer, raw, len(raw), tokens, room, add_special, parse_special)
        if n < 0:
            room = -n
            tokens = (llama_cpp.llama_token * room)()
            n = llama_cpp.llama_tokenize(self.pointer, raw, len(raw), tokens, room, add_special, parse_special)
        if n < 0:
            raise InvalidRequest("The text could not be tokenised.")
        return tokens[:n]

    def _published(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Convert a text to the tokens of the published tokenizer where llama.cpp's differ."""
        if self._word_pieces is None:
            from worker_gguf.llama.word_pieces import WordPieces

            every = range(self.n_tokens)
            # One text of all is decoded faster than each alone. No token has a zero byte.
            joined = b"\0".join(map(_text_of, repeat(self.pointer), every))
            texts = joined.decode("utf-8", "replace").split("\0")
            attributes = map(_attributes_of, repeat(self.pointer), every)
            is_special = [bool(attribute & (_UNKNOWN | _CONTROL)) for attribute in attributes]
            special = dict(zip(compress(texts, is_special), compress(every, is_special), strict=True))
            self._word_pieces = WordPieces.of(texts, special, self._unknown)
        tokens = self._word_pieces.tokenize(text, parse_special=parse_special)
        if not add_special:
            return list(tokens)
        begin, end = self.tokenize("", add_special=True, parse_special=False)
        return [begin, *tokens, end]

    def piece(self, token: int) -> bytes:
        """Return the token's bytes as they appear in an answer. Control tokens are empty."""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def text(self, tokens: Iterable[int]) -> str:
        """Return tokens as text, with control tokens written out and incomplete characters as U+FFFD."""
        pieces = (self.piece(token) or self.control_piece(token) for token in tokens)  # the first kind is kept
        return b"".join(pieces).decode("utf-8", "replace")

    def control_piece(self, token: int) -> bytes:
        """Return the token's bytes, with control tokens written out."""
        return self._read_piece(token, special=True)

    def table(self, eog: Iterable[int]) -> TokenTable:
        """Read all tokens. This takes 0.3 s for 128k tokens, in which other threads run now and then."""
        pieces: list[bytes] = []
        controls: list[int] = []
        room = 1 << 16
        buffer = ctypes.create_string_buffer(room)
        address = ctypes.addressof(buffer)
        for token in range(self.n_tokens):
            n = _piece_of(self.pointer, token, address, room, 0, True)
            pieces.append(ctypes.string_at(address, n) if n >= 0 else self._read_piece(token, special=True))
            if _attributes_of(self.pointer, token) & _CONTROL:
                controls.append(token)
            if token % 512 == 0:
                time.sleep(0)  # so that no other thread waits long for the interpreter lock
        function = ctypes.cast(llama_cpp.llama_tokenize, ctypes.c_void_p).value
        assert function is not None
        return TokenTable(pieces, frozenset(controls), tuple(sorted(eog)), self.pointer, function)

    def _read_suppressed(self) -> frozenset[int]:
        """Read the tokens that, according to the model's file, must not be drawn."""
        n = ctypes.c_int32(0)
        tokens = llama_cpp.llama_vocab_get_suppress_tokens(self.pointer, ctypes.byref(n))
        return frozenset(tokens[: n.value]) if n.value else frozenset()

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n


def _stated(model: llama_cpp.llama_model_p, key: str) -> str:
    """Return what the file of a model says about its vocabulary, or an empty text."""
    buffer = ctypes.create_string_buffer(16)
    n = llama_cpp.llama_model_meta_val_str(model, f"tokenizer.ggml.{key}".encode(), buffer, len(buffer))
    return buffer.value.decode() if n > 0 else ""
