"""The chat template and its rendering, with the helpers that Transformers gives a template."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools.embedded.conversation import Json

BOS = "<|begin_of_text|>"
SOURCE = Path(__file__).with_name("chat_template.jinja")


def source() -> str:
    return SOURCE.read_text(encoding="utf-8").rstrip("\n")


def render(
    messages: Sequence[Json],
    tools: Sequence[Json] = (),
    *,
    add_generation_prompt: bool,
    template: Template | None = None,
) -> str:
    return (template or _compiled()).render(
        messages=list(messages),
        tools=list(tools) or None,
        add_generation_prompt=add_generation_prompt,
        bos_token=BOS,
    )


def compile_template(text: str) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    # Jinja's own filter sorts keys and escapes HTML; chat templates expect neither.
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(text)


@cache
def _compiled() -> Template:
    return compile_template(source())


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
