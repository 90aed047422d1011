"""A model's vocabulary: text to tokens, token to bytes, special tokens. Thread-safe once made."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.bindings import llama_cpp

__all__ = ["Vocabulary"]

_NONE = -1
# llama.h: enum llama_vocab_type
_NO_VOCABULARY, _SENTENCE_PIECE = 0, 1


class Vocabulary:
    """Wraps llama.cpp's vocabulary; lives as long as its model."""

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        pointer = llama_cpp.llama_model_get_vocab(model)
        assert pointer is not None
        self.pointer: llama_cpp.llama_vocab_p = pointer
        self.n_tokens: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self.pointer))
        self._bos: int | None = None
        self._eos: int | None = None
        self._pieces: list[bytes | None] = [None] * self.n_tokens
        self.suppressed = self._read_suppressed()
        self.eog = frozenset(t for t in range(self.n_tokens) if llama_cpp.llama_vocab_is_eog(self.pointer, t))

    def why_unusable(self) -> str | None:
        """Return why the first text would end the process, or None. llama.cpp takes these facts for granted."""
        kind = llama_cpp.llama_vocab_type(self.pointer)
        if kind == _NO_VOCABULARY:
            return "a model without a vocabulary, which cannot read text"
        if kind == _SENTENCE_PIECE and (n_missing := self._n_missing_bytes()):
            return f"a model whose vocabulary lacks {n_missing} of the 256 bytes that encode other characters"
        return None

    def _n_missing_bytes(self) -> int:
        """Bytes that are a token neither as `<0x0A>` nor as themselves. They stand at the front as a rule."""
        missing = {b"<0x%02X>" % byte: byte for byte in range(256)} | {bytes([byte]): byte for byte in range(256)}
        left = set(range(256))
        for token in range(self.n_tokens):
            left.discard(missing.get(llama_cpp.llama_vocab_get_text(self.pointer, token), -1))
            if not left:
                break
        return len(left)

    def adopt(self, bos: int | None, eos: Sequence[int]) -> None:
        """Take special tokens from elsewhere, for a file that has them wrong; before anything else reads them."""
        self._bos = bos if bos != self.bos else None  # llama.cpp adds the file's own itself
        if eos:
            self._eos = eos[0]
            self.eog |= frozenset(eos)

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

    def token_text(self, token: int | None) -> str:
        """A special token as it is written in a chat template; empty for None."""
        if token is None:
            return ""
        text = llama_cpp.llama_vocab_get_text(self.pointer, token)
        return text.decode("utf-8", "replace") if text else ""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """`add_special` adds BOS/EOS where the model asks for it; `parse_special` reads `<|eot_id|>` and the like as
        the tokens they name."""
        if add_special and self._bos is not None:
            tokens_of_text = self.tokenize(text, add_special=False, parse_special=parse_special)
            return [self._bos, *tokens_of_text] if self.adds_bos else tokens_of_text
        raw = text.encode("utf-8")
        if len(raw) >= 2**31:
            raise InvalidRequest("The text is 2 GiB or longer, more than a tokenizer takes.")
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

    def piece(self, token: int) -> bytes:
        """The token's bytes as they stand in an answer; control tokens are empty."""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def text(self, tokens: Iterable[int]) -> str:
        """Tokens as text, control tokens written out, broken characters as U+FFFD."""
        return b"".join(map(self.control_piece, tokens)).decode("utf-8", "replace")

    def control_piece(self, token: int) -> bytes:
        """The token's bytes with control tokens written out."""
        return self._read_piece(token, special=True)

    def _read_suppressed(self) -> frozenset[int]:
        """The tokens that the model's file forbids drawing."""
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
