"""Tests that a chat template is stopped when it never ends or writes too much, and that a long chat is not."""

from __future__ import annotations

import time

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate
from worker_gguf.template.limits import TemplateLimits, limited

HELLO = [{"role": "user", "content": "Hello"}]
TIGHT = TemplateLimits(max_source=2_000, max_output=10_000, timeout_s=0.2)
# A busy machine must not run out of time where the length is the point.
PATIENT = TemplateLimits(max_source=2_000, max_output=10_000, timeout_s=60.0)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
        """{% set n = namespace(d=0) %}{% block a %}{% set n.d = n.d + 1 %}
        {% if n.d < 60 %}{{ self.a() }}{{ self.a() }}{% endif %}{% set n.d = n.d - 1 %}{% endblock %}""",
    ],
    ids=["loops", "macro", "recursive loop", "block"],
)
def test_endless_work_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match=r"ran for more than 0\.2 seconds"):
        ChatTemplate(source, limits=TIGHT).render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(9999) %}{{ 'xxxxxxxxxx' }}{% endfor %}",
        "{% for i in range(9999) %}xxxxxxxxxx{% endfor %}",
        "{{ 'x' * 10001 }}",
    ],
)
def test_endless_output_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match="its output has more than 10000 characters"):
        ChatTemplate(source, limits=PATIENT).render(HELLO)


def test_what_python_refuses_is_a_sentence() -> None:
    for source in ("{{ 1 / 0 }}", "{{ range(999999999) }}", "{{ '%d' % 'x' }}"):
        with pytest.raises(TemplateError, match="cannot render this conversation"):
            ChatTemplate(source).render(HELLO)


def test_long_source_is_refused() -> None:
    with pytest.raises(TemplateError, match="3000 characters"):
        ChatTemplate("x" * 3000, limits=TIGHT)


def test_long_conversation_is_rendered() -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 4000
    source = "{% set n = namespace(x='') %}{% for m in messages %}{{ m.role ~ m.content | trim }}{% endfor %}"
    assert len(ChatTemplate(source).render(messages)) == 4000 * 1004


def test_several_renderings_can_have_one_limit_together() -> None:
    endless = ChatTemplate("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    began_s = time.monotonic()
    with limited(TIGHT):
        for _ in range(100):
            with pytest.raises(TemplateError, match="ran for more than"):
                endless.render(HELLO)
    # One rendering alone may take 5 s.
    assert time.monotonic() - began_s < 5
    assert ChatTemplate("{{ messages[0].content }}").render(HELLO) == "Hello"
