"""Tokens of texts that llama.cpp reads in another way than the published tokenizers of BERT's vocabularies.

llama.cpp drops all marks as accents, so it loses the vowel signs of Hindi and of other scripts of India. It does not
take syllables of Hangul apart, and a word of any length has tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

__all__ = ["WordPieces", "differs"]

_LONGEST_WORD: Final = 100
_BEGIN: Final = "\u2581"  # the mark of a token that begins a word, in llama.cpp's form of a vocabulary
_MOST_CHARACTERS: Final = 1 << 16
_CONTROL_SPACES: Final = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
"""Characters that Python takes for spaces. The published tokenizer drops them like other control characters."""

_DROPPED: Final = dict.fromkeys(map(ord, _CONTROL_SPACES))
_IDEOGRAPHS: Final = (
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F)),
)
# What may be inside a word. So a text in a script without spaces, such as a Chinese one, is no long word.
_IN_WORD: Final = r"[^\s!-/:-@\[-`{-~\u3000-\u303f\u3400-\u9fff\uff00-\uff0f]"
_LONG_WORD: Final = re.compile(f"(?<!{_IN_WORD}){_IN_WORD}{{{_LONGEST_WORD + 1}}}")


def differs(text: str) -> bool:
    """Return whether llama.cpp may give a text other tokens than the published tokenizer."""
    if len(text) > _LONGEST_WORD:
        runs = text.split()
        if len(max(runs, key=len, default="")) > _LONGEST_WORD and any(map(_LONG_WORD.search, runs)):
            return True
    if text.isascii():
        return "\x0b" in text or "\x0c" in text
    return any(map(_is_other, set(text)))


@lru_cache(_MOST_CHARACTERS)
def _is_other(character: str) -> bool:
    return (
        "\uac00" <= character <= "\ud7a3"
        or character in "\x0b\x0c\x85\u2581"
        or unicodedata.category(character) in ("Mc", "Me")
    )


class WordPieces(Struct, frozen=True):
    """A vocabulary of word pieces in lower case without accents.

    `begins` has the tokens that begin a word, and `goes_on` those inside one, both without a mark. `special` has those
    that a text may name, such as `[MASK]`.
    """

    begins: Mapping[str, int]
    goes_on: Mapping[str, int]
    special: Mapping[str, int]
    unknown: int
    longest: int

    @classmethod
    def of(cls, texts: Iterable[str], special: Mapping[str, int], unknown: int) -> WordPieces:
        """Build it from the text of each token in llama.cpp's form."""
        begins: dict[str, int] = {}
        goes_on: dict[str, int] = {}
        for token, text in enumerate(texts):
            if text not in special:
                if len(text) > 1 and text[0] == _BEGIN:
                    begins[text[1:]] = token
                else:
                    goes_on[text] = token
        longest = max(map(len, (*begins, *goes_on)), default=0)
        return cls(begins, goes_on, special, unknown, longest)

    def tokenize(self, text: str, *, parse_special: bool) -> Iterator[int]:
        """Yield the tokens of a text, without any around it."""
        if not (parse_special and self.special):
            yield from self._of_words(text)
            return
        for part in re.split(f"({'|'.join(map(re.escape, self.special))})", text):
            if (token := self.special.get(part)) is not None:
                yield token
            else:
                yield from self._of_words(part)

    def _of_words(self, text: str) -> Iterator[int]:
        if any(character in text for character in _CONTROL_SPACES):
            text = text.translate(_DROPPED)
        known: dict[str, list[int]] = {}
        for run in text.split():
            if (tokens := known.get(run)) is None:
                tokens = known[run] = [token for word in _words(run) for token in self._of_word(word)]
            yield from tokens

    def _of_word(self, word: str) -> Iterable[int]:
        """Return the longest tokens that a word consists of, from its beginning."""
        if len(word) > _LONGEST_WORD:
            return (self.unknown,)
        found: list[int] = []
        tokens, place = self.begins, 0
        while place < len(word):
            for end in range(min(len(word), place + self.longest), place, -1):
                if (token := tokens.get(word[place:end])) is not None:
                    found.append(token)
                    tokens, place = self.goes_on, end
                    break
            else:
                return (self.unknown,)
        return found


def _words(run: str) -> Iterator[str]:
    """Yield the words of a text without spaces, in lower case. Punctuation and ideographs are words of their own."""
    for part in "".join(map(_cleaned, run)).split():
        letters = "".join(map(str.lower, filter(_is_no_accent, unicodedata.normalize("NFD", part))))
        begin = 0
        for place, letter in enumerate(letters):
            if _is_punctuation(letter):
                if begin < place:
                    yield letters[begin:place]
                yield letter
                begin = place + 1
        if begin < len(letters):
            yield letters[begin:]


@lru_cache(_MOST_CHARACTERS)
def _cleaned(character: str) -> str:
    """Return a character with spaces around it if it is an ideograph, and nothing for a control character."""
    if character == "\ufffd" or unicodedata.category(character).startswith("C"):
        return ""
    is_ideograph = any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
    return f" {character} " if is_ideograph else character


@lru_cache(_MOST_CHARACTERS)
def _is_no_accent(character: str) -> bool:
    return unicodedata.category(character) != "Mn"


@lru_cache(_MOST_CHARACTERS)
def _is_punctuation(character: str) -> bool:
    is_symbol = character.isascii() and character.isprintable() and not character.isalnum()
    return is_symbol or unicodedata.category(character).startswith("P")
