"""One call of a tool, from where tools differ to where they no longer do, as an expression of Lark."""

from __future__ import annotations

import json
import re
from typing import Protocol

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.argument_schema import arguments_of
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.json_call import ARGUMENTS_KEYS
from worker_gguf.markup.json_value import LINE_OR_BLANK, json_value
from worker_gguf.markup.lark import LarkGrammar, either, literal, optional
from worker_gguf.markup.marks import Marks
from worker_gguf.markup.notation import GemmaNotation, PythonNotation
from worker_gguf.markup.tagged_grammar import TaggedArguments
from worker_gguf.markup.tool import Tool
from worker_gguf.markup.value_grammar import ValueGrammar

__all__ = ["CallBodies", "arguments_json", "call_bodies"]

# What models write before the name though their template does not, where an object is all that tells a call.
_TYPE = (("type", '"function"'),)
# With more tools, the arguments must come after the name: before it, all schemas would have to be followed at once.
_MOST_TOOLS_IN_ANY_ORDER = 16
_PYTHON_NAME = re.compile(r"[\w.\-]+")


class CallBodies(Protocol):
    """Writes calls into one grammar: `opening`, one of the bodies, `closing`."""

    opening: str
    after_brace: str
    """`opening` without the brace with which it begins, if it does."""
    closing: str

    def body(self, tool: Tool) -> str:
        """Return the expression of what is the tool's own in a call. Raises InvalidRequest if there can be none."""
        ...


def call_bodies(grammar: LarkGrammar, marks: Marks, form: CallFormat, n_tools: int) -> CallBodies:
    """Return the bodies of the calls of a format that has no channels."""
    match form.syntax:
        case "json_object":
            return _JsonObjects(grammar, form, n_tools)
        case "pythonic":
            return _PythonCalls(grammar, marks)
        case "gemma":
            return _GemmaCalls(grammar, marks, form)
        case _:
            return _NamedCalls(grammar, marks, form)


def arguments_json(grammar: LarkGrammar, tool: Tool) -> str:
    """Return the rule of a tool's arguments as a JSON object."""
    schema = {**tool.parameters, "type": "object"}
    return grammar.rule(json_value(schema, schema, is_lenient=not tool.strict))


class _JsonObjects:
    """Calls as {"name": NAME, "arguments": {...}}."""

    def __init__(self, grammar: LarkGrammar, form: CallFormat, n_tools: int) -> None:
        self._grammar = grammar
        self._keys = keys = form.json_call
        self._is_any_order = n_tools <= _MOST_TOOLS_IN_ANY_ORDER
        self._space = space = grammar.terminal(f"/({LINE_OR_BLANK})?/")
        self._colon = f'{space} ":" {space}'
        self._comma = f'{space} "," {space}'
        name = self._key(keys.name_key)
        arguments = f"{either(map(_quoted, dict.fromkeys((keys.arguments_key, *ARGUMENTS_KEYS))))} {self._colon}"
        self._first_name, self._second_name = grammar.terminal(name), grammar.terminal(f"{self._comma} {name}")
        self._first_arguments = grammar.terminal(arguments)
        self._second_arguments = grammar.terminal(f"{self._comma} {arguments}")
        self._only_colon = grammar.terminal(self._colon)
        self.after_brace = f"{space} {self._opening(keys.constants or (_TYPE if form.only_at_start else ()))}"
        self.opening = f'"{{" {self.after_brace}'
        self.closing = self._closing()

    def body(self, tool: Tool) -> str:
        name = self._grammar.terminal(_quoted(tool.name))
        arguments = arguments_json(self._grammar, tool)
        if self._keys.is_name_key:
            return f"{name} {self._only_colon} {arguments}"
        orders = [
            f"{self._first_name} {name} {self._second_arguments} {arguments}",
            f"{self._first_arguments} {arguments} {self._second_name} {name}",
        ]
        if self._keys.is_arguments_first:
            orders.reverse()
        return either(orders if self._is_any_order else orders[:1])

    def _opening(self, constants: tuple[tuple[str, str], ...]) -> str:
        first = [self._grammar.terminal(f"{self._key(k)} {literal(v)} {self._comma}") for k, v in constants]
        if self._keys.id_key and self._keys.is_id_first:
            first.append(self._grammar.terminal(f"{self._id()} {self._comma}"))
        further = [f"{either(first)}{{0,{len(first)}}}"] if first else []
        if self._keys.function_key:
            further.append(self._grammar.terminal(f'{self._key(self._keys.function_key)} "{{" {self._space}'))
        return " ".join(further)

    def _closing(self) -> str:
        brace = self._grammar.terminal(f'{self._space} "}}"')
        further = []
        if self._keys.id_key and not self._keys.is_id_first:
            further.append(optional(self._grammar.terminal(f"{self._comma} {self._id()}")))
        return " ".join([*([brace] if self._keys.function_key else []), *further, brace])

    def _key(self, key: str) -> str:
        return f"{_quoted(key)} {self._colon}"

    def _id(self) -> str:
        return f"{self._key(self._keys.id_key)} {_pattern(f'{chr(34)}({self._keys.id_pattern}){chr(34)}')}"


class _NamedCalls:
    """Calls as NAME and their arguments between marks: one JSON object, or values that are tagged."""

    after_brace = closing = ""

    def __init__(self, grammar: LarkGrammar, marks: Marks, form: CallFormat) -> None:
        self._grammar = grammar
        self._form = form
        self._tagged = TaggedArguments(grammar, marks, form, form.values) if form.values else None
        call_id = grammar.terminal(_pattern(form.id_pattern)) if form.id_pattern else ""
        id_after = optional(f"{marks.expression(form.name_end)} {call_id}") if form.name_end else ""
        # Where white space alone divides the name from the arguments, it must be there.
        start = marks.expression(form.arguments_start) or ("" if form.values else literal(form.arguments_start))
        self._start = f"{id_after} {start}"
        self.opening = f"{call_id} {marks.expression(form.name_start)}" if form.name_start else ""

    def body(self, tool: Tool) -> str:
        form = self._form
        _refuse(tool, [form.name_end, form.arguments_start, form.call_end])
        name = f"{literal(tool.name)} {self._start}"
        if self._tagged is None:
            return f"{name} {arguments_json(self._grammar, tool)}"
        return f"{name} {self._tagged.expression(arguments_of(tool, are_values_json=True))}"


class _GemmaCalls:
    """Calls as NAME{KEY:VALUE,...}."""

    opening = after_brace = closing = ""

    def __init__(self, grammar: LarkGrammar, marks: Marks, form: CallFormat) -> None:
        self._grammar = grammar
        self._form = form
        self._notation = GemmaNotation(grammar, marks, form.string_quote or '"')
        self._start = marks.expression(form.arguments_start)
        self._end = marks.expression(form.arguments_end)

    def body(self, tool: Tool) -> str:
        _refuse(tool, [self._form.arguments_start])
        notation = self._notation
        arguments = arguments_of(tool, are_values_json=False)
        values = ValueGrammar(self._grammar, notation, arguments.schema, is_lenient=not tool.strict)
        members = values.members(arguments, notation.key, notation.other_key, self._end)
        return f"{literal(tool.name)} {self._start} {members}"


class _PythonCalls:
    """Calls as NAME(KEY=VALUE, ...)."""

    opening = after_brace = closing = ""

    def __init__(self, grammar: LarkGrammar, marks: Marks) -> None:
        self._grammar = grammar
        self._notation = PythonNotation(grammar, marks)
        self._start = grammar.terminal(f'"(" {marks.space}?')
        self._end = grammar.terminal(f'{marks.space}? ")"')

    def body(self, tool: Tool) -> str:
        arguments = arguments_of(tool, are_values_json=False)
        for name in (tool.name, *sorted(arguments.required)):
            if not _PYTHON_NAME.fullmatch(name):
                raise _cannot_write(tool, name)
        named = {key: one for key, one in arguments.properties.items() if _PYTHON_NAME.fullmatch(key)}
        notation = self._notation
        values = ValueGrammar(self._grammar, notation, arguments.schema, is_lenient=not tool.strict)
        members = values.members(
            arguments._replace(properties=named), notation.argument, notation.other_argument, self._end
        )
        return f"{literal(tool.name)} {self._start} {members}"


def _quoted(text: str) -> str:
    return literal(json.dumps(text, ensure_ascii=False))


def _pattern(expression: str) -> str:
    """Return a regular expression as Lark writes it."""
    return "/" + re.sub(r"(?<!\\)/", r"\\/", expression) + "/"


def _refuse(tool: Tool, marks: list[str]) -> None:
    """Raise InvalidRequest if a mark that comes after the name is in it."""
    name = tool.name
    if name != name.strip() or "\n" in name or any(mark.strip() and mark.strip() in name for mark in marks):
        raise _cannot_write(tool, tool.name)


def _cannot_write(tool: Tool, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The name {name!r} of the tool {tool.name!r} cannot be written in the format of this model's calls. Use "
        "letters, digits and underscores.",
        param="tools",
    )
