"""The Jinja environment chat templates are written for: what Transformers gives them, sandboxed and metered.

Knows nothing of messages, of models or of HTTP. What a template sees (names, filters, tags, whitespace rules) is
Transformers' `apply_chat_template`; tests/template/test_conformance.py compares the two.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
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
from jinja2.visitor import NodeTransformer

from worker_gguf.template.limits import OPERATORS, guard_format, guard_method, spent_by

__all__ = ["ChatEnvironment", "TemplateRefusal"]

# Filters that only look at or pass on what they are given; all others make text of it, and are measured first.
_PASSIVE_FILTERS = frozenset(
    {"abs", "attr", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last", "length"}
    | {"list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round", "select", "selectattr"}
    | {"sort", "tojson", "unique"}
)
# No template can write this name.
_MEASURED = "measured operand"


class TemplateRefusal(jinja2.TemplateError):
    """The template called `raise_exception`: the conversation is not one it can write."""


class GenerationTag(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; here its body is simply rendered.

    It is a call block, as in Transformers, so that a name set inside it stays inside.
    """

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _PlainNamespace(Namespace):
    """`namespace()` without underscore names, which no template needs and sandbox escapes are made of."""

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
        raise SecurityError(f"a namespace takes no name that starts with an underscore: {name!r}")


class _PlainDict:
    """`dict` as a function and no more: the type itself would lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusal(str(message))


def _strftime(now: Callable[[], datetime], format: str) -> str:  # noqa: A002  (templates may name it)
    # The C library may ask for 256 times the format's length.
    spent_by().charge(256 * len(format))
    return now().strftime(format)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` writes `<` as `\\u003c`, which no model was trained on."""
    width = indent if isinstance(indent, int) else len(indent or "")
    spent_by().charge((1 + max(width, 0)) * spent_by().take(value))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _metered(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
    """Measure what a text filter is about to turn into text. `wraps` keeps Jinja's marks on the function."""
    n_passed = 1 if hasattr(act, "jinja_pass_arg") else 0

    @functools.wraps(act)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if len(args) == n_passed + 1 and type(args[-1]) is str and not kwargs:
            # Nearly every use: one text and no options.
            spent_by().charge(len(args[-1]))
            return act(*args)
        passed, values = args[:n_passed], list(args[n_passed:])
        if values and isinstance(values[0], Iterator):
            values[0] = list(values[0])
        budget = spent_by()
        for value in (*values, *kwargs.values()):
            budget.take(value)
        if values:
            _guard_filter(name, values, kwargs)
        return act(*passed, *values, **kwargs)

    return guarded


def _guard_filter(name: str, values: list[Any], named: dict[str, Any]) -> None:
    options = [*values[1:], *named.values()]
    if name == "replace" and len(options) > 1:
        guard_method(str(values[0]), name, (str(options[0]), str(options[1])), {})
    elif name == "format":
        guard_format(str(values[0]), values[1:], named)
    elif name == "join" and options and isinstance(values[0], list):
        spent_by().charge(len(values[0]) * len(str(options[0])))
    elif name in ("batch", "center", "indent", "slice", "wordwrap"):
        lines = 1 + (values[0].count("\n") if isinstance(values[0], str) else 0)
        spent_by().charge(8 * lines * max((option for option in options if isinstance(option, int)), default=0))


class _Meter(NodeTransformer):
    """Write the checks into a parsed template: one tick a turn, one measure for each operand of `~`."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, (nodes.Block, nodes.CallBlock, nodes.For, nodes.Macro)):
            # An attribute and a filter, since each call would pass the sandbox's checks again.
            tick = nodes.EnvironmentAttribute("ticked").set_lineno(node.lineno)
            node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
        elif isinstance(node, nodes.Concat):
            node.nodes = [_measuring(operand) for operand in node.nodes]
        return node


def _measuring(operand: nodes.Expr) -> nodes.Expr:
    # Line numbers are what an error message points to.
    measured = nodes.Filter(operand, _MEASURED, [], [], None, None)
    measured.set_lineno(operand.lineno)
    return measured


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles chat templates. Everything it runs must be inside `template_limits.spending`."""

    intercepted_binops = frozenset(OPERATORS)

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols], finalize=_printable
        )
        self.concat = _joined  # type: ignore[method-assign]
        self.filters = {
            name: act if name in _PASSIVE_FILTERS else _metered(name, act) for name, act in self.filters.items()
        }
        self.filters["tojson"] = _tojson
        self.filters[_MEASURED] = _measured
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=functools.partial(_strftime, now),
            dict=_PlainDict(),
            namespace=_PlainNamespace,
        )
        # Random filler text: nothing a prompt is made of, and as long as the template likes.
        del self.globals["lipsum"]

    def compiled(self, source: str) -> jinja2.Template:
        tree = _Meter().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    @property
    def ticked(self) -> None:
        spent_by().tick()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        OPERATORS[operator](left, right)
        return self.binop_table[operator](left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        act = super().wrap_str_format(value)
        if act is None:
            return None

        @functools.wraps(act)
        def guarded(*args: Any, **kwargs: Any) -> str:
            guard_format(value.__self__, args, kwargs)
            return act(*args, **kwargs)

        return guarded

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            args = guard_method(owner, getattr(obj, "__name__", ""), args, kwargs)
        return super().call(context, obj, *args, **kwargs)


def _printable(value: Any) -> Any:
    # Text is counted where the output is joined; anything else, before it becomes text.
    return value if type(value) is str else _measured(value)


def _measured(value: Any) -> Any:
    spent_by().take(value)
    return value


def _joined(parts: Iterable[str]) -> str:
    return spent_by().joined(parts)
