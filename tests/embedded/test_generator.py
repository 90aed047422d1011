"""The data generator: right answers, a repeatable stream, and a split that leaks nothing."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2.exceptions import TemplateError

from tools.embedded import chat, corpus, styles, template, tool_use, topics
from tools.embedded.candidates import candidates
from tools.embedded.conversation import assistant, user
from tools.embedded.exchange import Exchange, is_held_out
from tools.embedded.lexicon import CAPITALS

ROOT = Path(__file__).parents[2]


def test_same_seed_gives_the_same_conversations() -> None:
    assert list(corpus.training(3, 200)) == list(corpus.training(3, 200))
    assert list(corpus.training(3, 50)) != list(corpus.training(4, 50))


def test_no_training_exchange_is_held_out() -> None:
    rng = random.Random(1)
    assert not any(topics.draw(rng, held_out=False).is_held_out for _ in range(2000))


def test_held_out_sum_is_never_trained_on() -> None:
    hidden = {(a, b) for a in range(10) for b in range(10) if is_held_out(f"addition/{a}+{b}")}
    assert hidden
    answers = {f"{a} + {b} = {a + b}" for a, b in hidden}
    trained = {m["content"] for c in corpus.training(5, 3000) for m in c.messages if m["role"] == "assistant"}
    assert not answers & trained


def test_every_held_out_category_has_questions() -> None:
    drawn = list(corpus.held_out(1, 1))
    assert {c.category for c in drawn} >= {"capital", "addition", "reverse", "memory", "recount", "tool call"}
    assert all(c.messages[-1]["role"] == "assistant" for c in drawn)


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_right(seed: int) -> None:
    exchange = topics.addition(random.Random(seed))
    left, right = exchange.answer.split(" = ")
    assert sum(int(n) for n in left.split(" + ")) == int(right)


@pytest.mark.parametrize("seed", range(20))
def test_backwards_spelling_is_backwards(seed: int) -> None:
    exchange = topics.reverse(random.Random(seed))
    word = exchange.answer.replace("-", "")[::-1]
    assert word in exchange.question


def test_styles_rewrite_the_answer() -> None:
    rng = random.Random(0)
    paris = Exchange("capital", "Capital of France?", "The capital of France is Paris.", one_word="Paris")
    assert styles.upper(rng).apply(paris) == "THE CAPITAL OF FRANCE IS PARIS."
    assert styles.lower(rng).apply(paris) == "the capital of france is paris."
    assert styles.one_word(rng).apply(paris) == "Paris"
    ending = styles.ending(rng)
    assert ending.system is not None
    assert styles.Style.apply(ending, paris).split()[-1] in ending.system


def test_one_word_style_refuses_an_answer_of_several_words() -> None:
    rng = random.Random(0)
    assert not styles.one_word(rng).accepts(Exchange("talk", "Hi", "Hello! How can I help you?"))


@pytest.mark.parametrize("seed", range(20))
def test_remembered_answer_depends_on_an_earlier_message(seed: int) -> None:
    conversation = chat.remembering(random.Random(seed), held_out=True, n_fillers=2)
    value = conversation.last_answer.rstrip(".").split()[-1]
    assert len(conversation.messages) >= 8
    assert value


@pytest.mark.parametrize("seed", range(20))
def test_tool_call_is_json_for_an_offered_tool(seed: int) -> None:
    conversation = tool_use.calling(random.Random(seed))
    called = json.loads(conversation.last_answer)
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in conversation.tools}
    assert list(called["parameters"]) == offered[called["name"]]["required"]


def test_training_call_and_its_later_rendering_are_the_same_text() -> None:
    """The call is learned as an answer, so the template must later render exactly this text."""
    call = tool_use.draw(random.Random(2), held_out=False)
    answered = template.render([user("x"), assistant(call.text)], add_generation_prompt=False)
    history = [user("x"), *tool_use.call_messages(call)][:2]
    assert template.render(history, add_generation_prompt=False) == answered


def test_template_opens_an_assistant_turn_and_extends_a_conversation() -> None:
    messages = [user("Hi"), assistant("Hello!")]
    prompt = template.render(messages[:1], add_generation_prompt=True)
    whole = template.render(messages, add_generation_prompt=False)
    assert prompt == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert whole == f"{prompt}Hello!<|eot_id|>"


def test_template_lists_tools_under_the_system_message() -> None:
    text = template.render(
        [{"role": "system", "content": "Be kind."}, user("Hi")], [tool_use.WEATHER], add_generation_prompt=False
    )
    assert text.index("Be kind.") < text.index(json.dumps(tool_use.WEATHER)) < text.index("Hi")
    assert text.count("<|start_header_id|>system") == 1


def test_template_refuses_an_unknown_role() -> None:
    with pytest.raises(TemplateError, match="Unknown role wizard"):
        template.render([{"role": "wizard", "content": "Hi"}], add_generation_prompt=True)


def test_template_reads_text_parts_and_refuses_others() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert "Hello<|eot_id|>" in template.render([{"role": "user", "content": parts}], add_generation_prompt=False)
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(TemplateError, match="text only"):
        template.render([{"role": "user", "content": image}], add_generation_prompt=False)


def test_candidates_have_unique_names_and_end_with_an_answer() -> None:
    found = candidates()
    names = [candidate.name for candidate in found]
    assert len(names) == len(set(names))
    assert all(c.conversation.messages[-1]["role"] == "assistant" for c in found)


def test_every_country_has_its_own_capital() -> None:
    assert len(set(CAPITALS.values())) == len(CAPITALS)


def test_generator_needs_no_heavy_library() -> None:
    code = (
        "import sys; import tools.embedded.corpus, tools.embedded.template;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'gguf', 'tokenizers', 'llama_cpp')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
