"""A chat template that asks for endless time or memory is stopped, and a long conversation is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.template.chat_template import ChatTemplate
from worker_gguf.template.limits import TemplateLimits

HELLO = [{"role": "user", "content": "Hello"}]
TIGHT = TemplateLimits(max_source=2_000, max_value=10_000, max_built=100_000, timeout_s=0.2)
# A busy machine must not run out of time where memory is the point.
PATIENT = replace(TIGHT, timeout_s=60.0)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
        """{% set n = namespace(d=0) %}{% block a %}{% set n.d = n.d + 1 %}
        {% if n.d < 60 %}{{ self.a() }}{{ self.a() }}{% endif %}{% set n.d = n.d - 1 %}{% endblock %}""",
    ],
)
def test_endless_work_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError, match=r"ran for more than 0\.2 seconds"):
        ChatTemplate(source, limits=TIGHT).render(HELLO)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 99999999999 }}",
        "{{ 99999999999 * 'x' }}",
        "{{ [1] * 99999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%*d' % (99999999, 1) }}",
        "{{ '%99999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=99999999) }}",
        "{{ '{a:99999999}'.format_map({'a': 1}) }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x'.zfill(99999999999) }}",
        "{{ '\t'.expandtabs(tabsize=999999999) }}",
        "{{ 'x' | center(99999999999) }}",
        "{{ 'x\nx' | indent(99999999999) }}",
        "{{ [1] | batch(99999999999, 0) | list }}",
        "{{ [1] | slice(99999999999) | list }}",
        "{{ [[1]] | tojson(indent=99999999999) }}",
        "{{ ('x' * 5000).replace('x', 'x' * 5000) }}",
        "{{ ('x' * 5000) | replace('x', 'x' * 5000) }}",
        "{{ ('x' * 5000).join(range(5000) | map('string')) }}",
        "{{ range(5000) | join('x' * 5000) }}",
        "{{ (['x' * 500] * 99) | join }}",
        "{{ (['x' * 500] * 99) | map('string') | join }}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
        "{% set n = namespace(x=2) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | upper }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '' ~ n.x }}",
        "{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ '%s' % n.x }}",
        "{% set n = namespace() %}{% for i in range(50) %}{% set n.x = {1: n.x, 2: n.x} %}{% endfor %}{{ n.x }}",
        "{% set n = namespace() %}{% for i in range(50) %}{% set n.x = [n.x] * 2 %}{% endfor %}{{ {1: n}.items() }}",
        "{% for i in range(9999) %}{{ 'xxxxxxxxxx' }}{% endfor %}",
        "{% set x %}{% for i in range(9999) %}xxxxxxxxxx{% endfor %}{% endset %}",
        "{% macro f() %}{% for i in range(9999) %}xxxxxxxxxx{% endfor %}{% endmacro %}{% set x = f() %}",
        "{{ strftime_now('%c' * 4000) }}",
        "{{ nothing ~ ('x' * 9999) ~ ('x' * 9999) }}",
    ],
)
def test_endless_memory_is_refused(source: str) -> None:
    with pytest.raises(TemplateError, match="it builds"):
        ChatTemplate(source, limits=PATIENT).render(HELLO)


def test_long_source_is_refused() -> None:
    with pytest.raises(TemplateError, match="3000 characters"):
        ChatTemplate("x" * 3000, limits=TIGHT)


def test_long_conversation_is_rendered() -> None:
    messages = [{"role": "user", "content": "x" * 1000}] * 4000
    source = "{% set n = namespace(x='') %}{% for m in messages %}{{ m.role ~ m.content | trim }}{% endfor %}"
    assert len(ChatTemplate(source).render(messages)) == 4000 * 1004
