"""Tests of conversations with images: what a template makes of them, and the tokens of their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.service.scripted import CONTROLS, SHIFT, Letters, ScriptedMarkup
from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.errors import TemplateError, UnsupportedParameter
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.markups import Markups
from worker_gguf.service.prompts import Prepared, Prompts
from worker_gguf.template.chat_template import ChatTemplates

TEXTS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
# Writes an own token for an image in parts, as templates of Qwen2-VL do, and the texts of parts.
PARTS = """\
{%- for m in messages %}<{{ m.role }}>
{%- if m.content is string %}{{ m.content }}{% else %}
{%- for part in m.content %}{% if part.type == 'image' %}[IMG]{% else %}{{ part.text }}{% endif %}{% endfor %}
{%- endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"""
ONLY_PARTS = """\
{%- for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endfor %}
{%- if add_generation_prompt %}<a>{% endif %}"""
NO_SYSTEM = "{% if 'system' in messages | map(attribute='role') %}{{ raise_exception('no') }}{% endif %}" + TEXTS
ONLY_LAST = "<{{ messages[-1].role }}>{{ messages[-1].content }}<a>"
TWICE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.content }}{% endfor %}<a>"
ONE = {"type": "image_url", "image_url": {"url": "https://images.example/1"}}
TWO = {"type": "image_url", "image_url": {"url": "https://images.example/2"}}


def text(what: str) -> dict[str, str]:
    return {"type": "text", "text": what}


def user(*parts: object) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def call_of(*messages: Mapping[str, Any], **fields: Any) -> ChatCall:
    return parse_chat({"messages": list(messages), **fields}, Defaults())


class Beginning(Letters):
    """A vocabulary with a token that begins each prompt."""

    adds_bos = True
    bos = 7


def prompts_of(template: str, letters: Letters = Letters(), bos_text: str = "") -> Prompts:  # noqa: B008 - no state
    conversations = Conversations(ChatTemplates.compile(template), Markups(letters, ScriptedMarkup(thinking=None)))
    return Prompts(letters, conversations, 1000, bos_text)


def read(prepared: Prepared) -> str:
    """Return the prompt, with the numbers of images in the conversation in braces."""
    images = iter(prepared.images)
    (tokens,) = prepared.prompts
    return "".join(f"{{{next(images)}}}" if token == IMAGE else chr(token - SHIFT) for token in tokens)


@pytest.mark.parametrize("template", [TEXTS, PARTS, ONLY_PARTS])
def test_an_image_stands_where_it_was_sent_whatever_the_template_knows(template: str) -> None:
    call = call_of(user(text("a"), ONE, text("b"), text("c"), TWO), {"role": "assistant", "content": "d"}, user(ONE))
    assert read(prompts_of(template).prepare(call)) == "<user>a{0}b\nc{1}<assistant>d<user>{2}<a>"


def test_the_image_of_a_tool_stands_in_its_result() -> None:
    called = {"role": "assistant", "content": "d", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": [text("b"), ONE]}
    prepared = prompts_of(TEXTS).prepare(call_of(user(TWO, text("a")), called, result))
    assert "{0}a" in read(prepared)
    assert "b{1}" in read(prepared)
    assert prepared.image_params == ("messages.0.content.0.image_url", "messages.2.content.1.image_url")


def test_images_that_a_template_moves_keep_their_numbers() -> None:
    """A system message after the first user message is put into a later one, where the template has no system role."""
    late = {"role": "system", "content": [text("s"), TWO]}
    call = call_of(user(ONE, text("a")), {"role": "assistant", "content": "d"}, late, user(text("b"), ONE))
    prepared = prompts_of(NO_SYSTEM).prepare(call)
    assert sorted(prepared.images) == [0, 1, 2]
    assert read(prepared).index("s{1}") < read(prepared).index("b{2}")


@pytest.mark.parametrize(("template", "kept"), [(ONLY_LAST, 1), (TWICE, 4)])
def test_a_template_that_loses_or_doubles_an_image_is_refused(template: str, kept: int) -> None:
    call = call_of(user(ONE, text("a")), {"role": "assistant", "content": "d"}, user(TWO))
    with pytest.raises(TemplateError, match=f"keeps {kept} of the 2 images") as refused:
        prompts_of(template).prepare(call)
    assert refused.value.param == "messages"


def test_what_a_user_writes_is_never_taken_for_an_image() -> None:
    written = "<__media__> image0n0z <image> [IMG]"
    prepared = prompts_of(TEXTS).prepare(call_of(user(text(written), ONE)))
    assert read(prepared) == f"<user>{written}{{0}}<a>"


def test_a_prompt_that_is_shown_has_a_name_in_the_place_of_each_image() -> None:
    prompts = prompts_of(TEXTS)
    call = call_of(user(text("a"), ONE, TWO))
    assert prompts.prompt_text(call) == "<user>a<__media__><__media__><a>"
    with pytest.raises(UnsupportedParameter, match="not counted") as refused:
        prompts.prompt_tokens(call)
    assert refused.value.param == "messages.0.content.1.image_url"


def test_texts_beside_images_are_tokenised_alone() -> None:
    (tokens,) = prompts_of("{{ messages[0].content }}").prepare(call_of(user(ONE, text("[CALL]"), TWO))).prompts
    assert tokens == (IMAGE, CONTROLS["[CALL]"], IMAGE)


@pytest.mark.parametrize(("template", "begin"), [(TEXTS, 1), ("^" + TEXTS, 0)])
def test_bos_comes_once(template: str, begin: int) -> None:
    (tokens,) = prompts_of(template, Beginning(), "^").prepare(call_of(user(ONE))).prompts
    assert [token == 7 for token in tokens] == [n < begin for n in range(len(tokens))]
    assert tokens.count(IMAGE) == 1
