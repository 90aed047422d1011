"""The sandboxed Jinja environment of chat templates.

Its names, filters, tags and whitespace rules are those of `apply_chat_template` in Transformers.
tests/template/test_conformance.py compares the two.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ClassVar, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from worker_gguf.template.limits import check_time, joined

__all__ = ["ChatEnvironment", "TemplateRefusal"]


class TemplateRefusal(jinja2.TemplateError):
    """The template called `raise_exception`, because it does not support the conversation."""


class GenerationTag(Extension):
    """The tag `{% generation %}`, which marks text of the assistant for training. Here it only renders its body.

    It is a call block, as in Transformers, so that names set inside it are not visible outside.
    """

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _PlainNamespace(Namespace):
    """`namespace()` without names that start with an underscore, which only sandbox escapes need."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a name in a namespace must not start with an underscore: {name!r}")


# Transformers does not allow these, but llama.cpp does, and templates in model files use them.
_LIST_METHODS = frozenset({"append", "extend", "insert", "pop"})


class _PlainDict:
    """`dict` as a plain function. The type itself would allow an escape from the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusal(str(message))


def _strftime(now: Callable[[], datetime], format: str) -> str:  # noqa: A002  (templates may name it)
    return now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replace Jinja's `tojson`, which writes `<` as `\\u003c`: no model was trained with that."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and renders chat templates. Use it only inside `limits.limited`."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=functools.partial(_strftime, now),
            dict=_PlainDict(),
            namespace=_PlainNamespace,
        )
        # It returns random text of any length, which no prompt needs.
        del self.globals["lipsum"]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Allow also the methods by which a template changes its own lists, such as a queue of the ids of calls."""
        if type(obj) is list and attr in _LIST_METHODS:  # what a client sent is a GivenList
            return True
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        check_time()  # every macro, recursion and inner `range` calls this method
        return super().call(context, obj, *args, **kwargs)

    def rendered(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Render a template within the limits. Raises LimitExceeded."""
        return joined(template.generate(variables))
