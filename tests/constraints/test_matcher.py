"""Tests of compiled grammars and of matchers."""

from __future__ import annotations

import numpy as np
import pytest

from worker_gguf.constraints.matcher import Grammars, Matcher
from worker_gguf.engine.request import Constraint, GrammarKind
from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.vocabulary import Vocabulary

WORD = Constraint("regex", "[a-c]{3}")


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> set[int]:
    words = np.zeros(-(-vocabulary.n_tokens // 32), np.uint32)
    matcher.fill(words.ctypes.data, words.nbytes)
    bits = np.unpackbits(words.view(np.uint8), count=vocabulary.n_tokens, bitorder="little")
    return set(bits.nonzero()[0].tolist())


def tokens_of(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.tokenize(text, add_special=False, parse_special=True)


def test_the_mask_allows_exactly_the_tokens_that_can_begin_a_match(grammars: Grammars, vocabulary: Vocabulary) -> None:
    can_begin = {
        token
        for token in range(vocabulary.n_tokens)
        if (piece := vocabulary.piece(token)) and len(piece) <= 3 and set(piece) <= set(b"abc")
    }
    assert allowed(grammars.grammar(WORD).matcher(), vocabulary) == can_begin


def test_a_whole_match_has_ended_and_allows_only_the_end(grammars: Grammars, vocabulary: Vocabulary) -> None:
    matcher = grammars.grammar(WORD).matcher()
    assert matcher.takes_all(tokens_of(vocabulary, "abc"))
    assert matcher.has_ended
    assert allowed(matcher, vocabulary) == set(vocabulary.eog)


def test_matchers_of_one_grammar_are_independent(grammars: Grammars, vocabulary: Vocabulary) -> None:
    first, second = grammars.grammar(WORD).matcher(), grammars.grammar(WORD).matcher()
    assert first.takes_all(tokens_of(vocabulary, "abc"))
    assert not second.has_ended
    assert second.takes_all(tokens_of(vocabulary, "cba"))


def test_a_token_that_does_not_match_is_an_error(grammars: Grammars, vocabulary: Vocabulary) -> None:
    matcher = grammars.grammar(WORD).matcher()
    with pytest.raises(InvalidRequest, match="cannot go on"):
        matcher.take(tokens_of(vocabulary, "z")[0])


def test_a_grammar_that_dead_ends_is_an_error_at_the_mask(grammars: Grammars, vocabulary: Vocabulary) -> None:
    matcher = grammars.grammar(Constraint("lark", 'start: "a" NOTHING\nNOTHING: /b/ & /c/')).matcher()
    matcher.take(tokens_of(vocabulary, "a")[0])
    with pytest.raises(InvalidRequest, match="cannot go on"):
        allowed(matcher, vocabulary)


def test_a_grammar_that_does_not_compile_is_an_error(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest, match="cannot be used"):
        grammars.grammar(Constraint("lark", "start: nothing")).matcher()


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "(a{2000}){2000}"),
        Constraint("gbnf", 'root ::= ("a"{2000}){2000}'),
        Constraint("lark", 'start: (A{400}){400}\nA: "a"'),
    ],
    ids=str,
)
def test_a_text_that_is_too_long_to_follow_is_an_error_at_once(grammars: Grammars, constraint: Constraint) -> None:
    with pytest.raises(InvalidRequest, match="cannot be used: it is too large or too complex"):
        grammars.grammar(constraint)


@pytest.mark.parametrize("kind", ["regex", "lark"])
def test_a_long_text_can_be_followed(grammars: Grammars, vocabulary: Vocabulary, kind: GrammarKind) -> None:
    text = {"regex": "[xy](ab){16000}", "lark": f'start: /[xy]/ "{"ab" * 16000}"'}[kind]
    matcher = grammars.grammar(Constraint(kind, text)).matcher()
    for token in tokens_of(vocabulary, "xab"):
        assert token in allowed(matcher, vocabulary)
        matcher.take(token)


@pytest.mark.parametrize(
    ("opening", "text", "ends"),
    [
        ("", "abc", True),
        ("", "\n\nabc", True),
        ("", "<think>", False),
        ("<think>", "abc", True),
        ("<think>", " abc", True),
        ("<think>", "<think>", True),
    ],
)
def test_an_opening_may_stand_instead_of_the_match(
    grammars: Grammars, vocabulary: Vocabulary, opening: str, text: str, *, ends: bool
) -> None:
    matcher = grammars.grammar(WORD, opening).matcher()
    assert matcher.takes_all(tokens_of(vocabulary, text)) == ends
    assert matcher.has_ended == ends


def test_an_opening_that_is_a_control_token_is_that_token(grammars: Grammars, vocabulary: Vocabulary) -> None:
    text = "<|start_header_id|>"
    (token,) = tokens_of(vocabulary, text)
    assert vocabulary.piece(token) == b""
    matcher = grammars.grammar(WORD, text).matcher()
    assert token in allowed(matcher, vocabulary)
    matcher.take(token)
    assert matcher.has_ended


def test_forced_tokens_are_those_of_the_only_text_that_fits(grammars: Grammars, vocabulary: Vocabulary) -> None:
    matcher = grammars.grammar(Constraint("lark", r'start: "{\"temperature\": " /[0-9]/')).matcher()
    forced = matcher.forced()
    assert '{"temperature": '.startswith(vocabulary.text(forced))
    assert len(forced) > 1
