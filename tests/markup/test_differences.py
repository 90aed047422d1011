"""Tests of the comparison of texts and of the places where marks are cut."""

from __future__ import annotations

import pytest

from worker_gguf.markup.differences import (
    Repetition,
    common_prefix,
    common_suffix,
    counterpart,
    end_of_turn,
    first_mark,
    last_mark,
    split_repetition,
)


@pytest.mark.parametrize(
    ("one", "other", "prefix"),
    [
        ("<a></call>", "<a></calls>", "<a>"),
        ("<a>\n<b>", "<a>\n<c>", "<a>\n"),
        ("word one", "word two", "word "),
        ("◁a▷◁b▷", "◁a▷◁c▷", "◁a▷"),
        ("same", "same", "same"),
        ("ab", "ac", ""),
    ],
)
def test_a_common_prefix_ends_between_marks(one: str, other: str, prefix: str) -> None:
    assert common_prefix(one, other) == prefix


def test_a_common_suffix_begins_between_marks() -> None:
    assert common_suffix("<|END_TEXT|><|START_ACTION|>[", "<|CHATBOT|><|START_ACTION|>[") == "<|START_ACTION|>["


@pytest.mark.parametrize(
    ("before", "between", "after", "parts"),
    [
        pytest.param("<c>", "</c>\n<c>", "</c>", ("", "<c>", "</c>", "\n", ""), id="a block for each call"),
        pytest.param("<cs>\n", "\n", "\n</cs>", ("<cs>\n", "", "", "\n", "\n</cs>"), id="one block"),
        pytest.param("[T][", ", ", "]", ("[T][", "", "", ", ", "]"), id="a list"),
        pytest.param(
            "<｜calls▁begin｜><｜call▁begin｜>",
            "<｜call▁end｜><｜call▁begin｜>",
            "<｜call▁end｜><｜calls▁end｜>",
            ("<｜calls▁begin｜>", "<｜call▁begin｜>", "<｜call▁end｜>", "", "<｜calls▁end｜>"),
            id="marks that begin alike",
        ),
        pytest.param(
            "@@calls@@@@call@@",
            "@@end_call@@@@call@@",
            "@@end_call@@@@end_calls@@",
            ("@@calls@@", "@@call@@", "@@end_call@@", "", "@@end_calls@@"),
            id="marks without brackets",
        ),
        pytest.param(
            "<s>\n<c>",
            "</c>\n<c>",
            "</c>\n</s>",
            ("<s>\n", "<c>", "</c>", "\n", "\n</s>"),
            id="line breaks between marks",
        ),
    ],
)
def test_a_repetition_is_split_into_its_marks(
    before: str, between: str, after: str, parts: tuple[str, str, str, str, str]
) -> None:
    assert split_repetition(before, between, after) == Repetition(*parts)


@pytest.mark.parametrize(
    ("end", "text", "start"),
    [
        ("</think>", "<|assistant|>\n<think>\n", "<think>\n"),
        ("◁/think▷", "◁bot▷◁think▷", "◁think▷"),
        ("[/THINK]", "[/INST][THINK]", "[THINK]"),
        ("<|END_THINKING|>", "<|CHATBOT|><|START_THINKING|>", "<|START_THINKING|>"),
        ("</think>", "nothing", ""),
        ("", "<think>", ""),
    ],
)
def test_the_counterpart_of_a_mark_is_most_like_it(end: str, text: str, start: str) -> None:
    assert counterpart(end, text) == start


def test_the_end_of_a_turn_is_what_calls_and_content_have_in_common() -> None:
    assert end_of_turn("</call><|im_end|>\n", "<|im_end|>\n", "<|im_end|>\n<|im_start|>") == len("</call>")
    assert end_of_turn("<|END_ACTION|><|END_TURN|>", "<|END_RESPONSE|><|END_TURN|>", "") == len("<|END_ACTION|>")
    assert end_of_turn("</call><|eom|>", "<|eot|>", "") == len("</call><|eom|>")


def test_the_end_of_a_turn_is_that_of_the_user_if_marks_end_alike() -> None:
    end = "<|close|>message<|sep|>"
    assert end_of_turn(f"<|close|>calls<|sep|>{end}", f"<|close|>text<|sep|>{end}", f"{end}<|open|>") == 21


def test_the_end_of_a_turn_is_what_both_have_if_other_messages_follow() -> None:
    assert end_of_turn("</call></s>\nTool:", "</s>\nUser:", "") == len("</call>")


def test_the_first_and_the_last_mark_are_cut_at_brackets() -> None:
    assert first_mark("<a> <b>") == "<a> "
    assert last_mark("<a> <b>") == "<b>"
    assert last_mark("words") == "words"
