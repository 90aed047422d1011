"""How a model writes reasoning, its answer and tool calls, as one value.

A probe reads it off a chat template, or a row of families.py has it; the parser and the grammar of calls are both made
from it. All fields are texts that a model writes literally, with the whitespace that its template puts there; "" means
that there is nothing. The parser lets a model leave out or add white space around them, the grammar a little of it.

Calls are written as

    section_start call separator call ... section_end

where a section may be missing, and one call is, by `syntax`:

    json_object  call_start {"name": NAME, "arguments": {...}} call_end
    json         call_start [ID name_start] NAME [name_end ID] arguments_start {...} call_end
    tagged       call_start [ID name_start] NAME [name_end ID] arguments_start VALUES call_end, and one value is
                 key_start KEY [type_start TYPE] key_end value_start VALUE value_end [KEY key_close], with
                 `value_separator` between
    gemma        call_start NAME arguments_start KEY:VALUE,... arguments_end call_end, KEY bare, texts in string quotes
    pythonic     call_start NAME(KEY=VALUE, ...) call_end
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

__all__ = ["CallFormat", "Channels", "JsonCall", "Syntax", "TaggedValues", "without_name"]

_PART_OF_NAME = re.compile(r"(?<=[^\w.])\w+\.\Z")

Syntax = Literal["json_object", "json", "tagged", "gemma", "pythonic"]


class JsonCall(Struct, frozen=True):
    """The JSON object that is a call, for the syntax json_object.

    `name_key` and `arguments_key` are the keys of the function's name and of its arguments. With `function_key`, these
    two are in an object under that key. `id_key` is the key of the call's id, and `id_pattern` a regular expression of
    its text, without the quotes; `is_id_first` tells whether it is written before the name, else it comes last. With
    `is_name_key`, the call is {NAME: ARGUMENTS}, and both keys are "". `constants` are further keys, with their values
    as JSON texts, written before the others: (("type", '"function"'),). `is_arguments_first` tells whether the template
    writes the arguments before the name.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    function_key: str = ""
    id_key: str = ""
    id_pattern: str = "[a-zA-Z0-9]{9}"
    is_id_first: bool = False
    is_name_key: bool = False
    constants: tuple[tuple[str, str], ...] = ()
    is_arguments_first: bool = False


class TaggedValues(Struct, frozen=True):
    """The values of a call in the syntax tagged, each between marks.

    With `type_start`, a word between it and `key_end` tells how the value is written: raw text if it is one of
    `text_types`, else JSON. Without it, a value is raw text where the tool's schema allows a string, else JSON. `types`
    are the words that a model may write there, those of `text_types` among them.

    With `is_json`, all values are JSON, texts in quotes too. With `key_close`, the key is repeated after `value_end`
    and `key_close` follows it, as in <KEY>VALUE</KEY>. With `is_nested`, objects and arrays are values in values, the
    items of an array under the key "item".
    """

    key_start: str
    key_end: str
    value_start: str = ""
    value_end: str = ""
    value_separator: str = ""
    type_start: str = ""
    text_types: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    is_json: bool = False
    key_close: str = ""
    is_nested: bool = False


class Channels(Struct, frozen=True):
    """An answer that is a row of messages: `start` ROLE `channel` NAME `message` TEXT, then one of `ends`.

    The prompt has written `start` and the role of the first message. A message of a channel in `reasoning` is
    reasoning, of one in `content` content. It is a call if its header, before or after the channel's name, has
    `recipient` and then the function's name; its text is then the arguments as JSON, and `content_type` stands before
    `message`.
    """

    start: str
    role: str
    channel: str
    message: str
    ends: tuple[str, ...]
    reasoning: tuple[str, ...]
    content: tuple[str, ...]
    recipient: str
    call_channel: str
    content_type: str = ""


class CallFormat(Struct, frozen=True):
    """How a model writes its reasoning, its answer and its calls. The module's docstring has the order of the texts."""

    syntax: Syntax | None = None
    """How one call is written; None if the model writes none."""

    section_start: str = ""
    """Written once before all calls."""
    section_end: str = ""
    """Written once after all calls."""
    is_array: bool = False
    """Whether the calls are the items of a JSON array (json_object), or of a list in brackets (pythonic)."""
    separator: str = ""
    """Between two calls."""
    before_calls: str = ""
    """Between the content and the first call, such as a line break. If it is not "", then white space at the end of the
    content before a call is not part of the content."""
    is_parallel: bool = True
    """Whether one answer can have several calls."""

    call_start: str = ""
    """Before each call."""
    call_end: str = ""
    """After each call."""
    other_starts: tuple[str, ...] = ()
    """Texts with which models open a call or a section though their template writes another, such as
    "<|python_tag|>" or "<function=". Such a text stands for all texts up to the point that it is itself a part of or
    comes directly before: the name, or the first brace or bracket."""
    only_at_start: bool = False
    """Whether a call counts only where nothing but reasoning and other calls came before it; true for formats whose
    calls begin with an ordinary character, such as "{" or "["."""

    name_start: str = ""
    """Between an id and the name, for a call whose id comes before its name; "" if it does not."""
    name_end: str = ""
    """Between the name and an id or a counter, such as ":" in "functions.f:0"; "" if a call has none."""
    id_pattern: str = ""
    """Regular expression of the id before `name_start`, or between `name_end` and `arguments_start`. The id that a
    model writes is ignored."""
    arguments_start: str = ""
    """After the name, or the id, and before the arguments."""
    arguments_end: str = ""
    """After the arguments, for the syntax gemma."""
    string_quote: str = ""
    """Before and after each text value, for the syntax gemma."""
    content_names: tuple[str, ...] = ()
    """Names that are no function: what follows them as arguments is content. "all" for Functionary 3.2."""
    json_call: JsonCall = JsonCall()
    """The keys of a call, for the syntax json_object."""
    values: TaggedValues | None = None
    """The marks of values, for the syntax tagged."""
    channels: Channels | None = None
    """The channels of a model that writes them; then all other texts of this value are "", and `syntax` is "json"."""

    reasoning_start: str = ""
    """Before the reasoning; "" if only the prompt opens it, or if there is none."""
    reasoning_ends: tuple[str, ...] = ()
    """Each of them ends the reasoning; the first is the one that the template writes. Empty for no reasoning."""
    calls_in_reasoning: bool = False
    """Whether the model may write a call in open reasoning, as the last thing of its answer."""
    content_start: str = ""
    """Before the content, for models that wrap it."""
    content_end: str = ""
    """After the content, for models that wrap it."""
    ignored: tuple[str, ...] = ()
    """Further texts that are never content, such as a call's end that a model repeats."""

    must_be_stated: bool = False
    """Whether the prompt must tell the model this format and the tools, because its template does not."""
    must_list_tools: bool = False
    """Whether the prompt must tell the model the tools, because its template writes calls but lists no tools. The
    template should then be given none, because it may refuse them."""

    @property
    def reasons(self) -> bool:
        """Whether the model can think before its answer."""
        return bool(self.reasoning_ends or self.channels)

    @property
    def trigger(self) -> str:
        """The first text of a call, "" if a call begins with an ordinary character or in a channel."""
        return self.section_start or self.call_start

    @property
    def first_call_end(self) -> str:
        """The first of several marks that end a call, "" if there is one only. Models forget those after it."""
        first, *others = self.call_end.split() or [""]
        return first if others and first[-1:] in (">", "]") else ""


def without_name(call_start: str) -> str:
    """Return the beginning of a call without white space and without what belongs to the name.

    This is a text such as "functions.", which models leave out.
    """
    return _PART_OF_NAME.sub("", call_start.strip())
