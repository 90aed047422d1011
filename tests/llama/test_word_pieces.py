"""Tests of the tokens of texts that llama.cpp reads in another way than BERT's published tokenizers."""

from __future__ import annotations

import pytest

from worker_gguf.llama.word_pieces import WordPieces, differs

TEXTS = ["[PAD]", "[UNK]", "[MASK]", "▁कि", "त", "ाब", "▁cat", "s", "▁,", "▁漢", "▁ᄒ", "ᅡ", "ᆫ", "▁▁", "▁"]
PAD, UNKNOWN, MASK = 0, 1, 2
PIECES = WordPieces.of(TEXTS, {"[PAD]": PAD, "[MASK]": MASK}, UNKNOWN)


def tokens(text: str, *, parse_special: bool = True) -> list[int]:
    return list(PIECES.tokenize(text, parse_special=parse_special))


def ids(*texts: str) -> list[int]:
    return [TEXTS.index(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    ["", "a cat", "Ünï, çödé!", "γάτα", "кошка", "猫が好き", "漢" * 500, "ไทย", "a\tb\r\n", "x" * 100, "ab. " * 90],
)
def test_most_texts_are_left_to_llama_cpp(text: str) -> None:
    assert not differs(text)


@pytest.mark.parametrize(
    "text", ["किताब", "한국", "a\x0bb", "a\x0c", "\x85", "▁", "1\u20dd", "x" * 101, "a " + "é" * 101]
)
def test_marks_with_a_width_syllables_of_hangul_and_long_words_are_not(text: str) -> None:
    assert differs(text)


def test_vowel_signs_stay() -> None:
    assert tokens("किताब") == ids("▁कि", "त", "ाब")


def test_syllables_of_hangul_are_taken_apart() -> None:
    assert tokens("한") == ids("▁ᄒ", "ᅡ", "ᆫ")


def test_upper_case_accents_and_control_characters_are_left_out() -> None:
    assert tokens("CÁTS") == tokens("c\u200bats\x0b") == ids("▁cat", "s")


def test_punctuation_and_ideographs_are_words() -> None:
    assert tokens("cat,cats漢cat") == ids("▁cat", "▁,", "▁cat", "s", "▁漢", "▁cat")


@pytest.mark.parametrize("word", ["dog", "catx", "cat" + "s" * 98])
def test_a_word_without_tokens_or_a_long_one_is_unknown(word: str) -> None:
    assert tokens(f"cat {word} cat") == [*ids("▁cat"), UNKNOWN, *ids("▁cat")]


def test_a_word_of_100_characters_is_not_too_long() -> None:
    assert tokens("cat" + "s" * 97) == [*ids("▁cat"), *ids("s") * 97]


def test_the_mark_of_a_word_is_a_character_in_a_text() -> None:
    assert tokens("▁") == ids("▁▁")
    assert tokens("cat▁") == ids("▁cat", "▁")
    assert tokens("cat▁cat") == [UNKNOWN]


def test_special_tokens_may_be_named() -> None:
    assert tokens("cat[MASK]s") == [*ids("▁cat"), MASK, UNKNOWN]
    assert MASK not in tokens("[MASK]", parse_special=False)
