"""Finds calls whose arguments are written one by one, in the text that a chat template wrote.

They are marks around a name and a value (the syntax tagged), Python calls, or objects with bare keys as Gemma 4 writes
them. Which one it is, the text before a text value tells: it is the same as before a number, or it adds a quote, or it
has another word.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat, TaggedValues
from worker_gguf.markup.conversations import ARGUMENTS, FIRST, SECOND, TWO_ARGUMENTS, Call, Conversations
from worker_gguf.markup.differences import is_boundary, is_rest, last_mark, shared_start, split_repetition
from worker_gguf.markup.seen import COUNTER, ID_PATTERN, SeenCalls, ValueTexts

__all__ = ["calls_with_values", "with_values"]

_KEY, _SECOND_KEY = list(TWO_ARGUMENTS)
_NUMBER_KEY = "needlekey_b"
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


class _Call(NamedTuple):
    """A call with its first argument, a text: where its name begins and its value ends, and the texts between."""

    start: int
    end: int
    before_key: str
    key_end: str


def calls_with_values(conversations: Conversations) -> SeenCalls | None:
    """Find calls whose arguments are written one by one."""
    text = conversations.turn([FIRST]) or ""
    two_values = conversations.turn([Call(TWO_ARGUMENTS)]) or ""
    many = conversations.turn([Call(ARGUMENTS)]) or ""
    one, first = _find(text, FIRST), _find(two_values, Call(TWO_ARGUMENTS))
    number_start = _between(many, _NUMBER_KEY, str(ARGUMENTS[_NUMBER_KEY]))
    if one is None or first is None or number_start is None:
        return None
    between_values = two_values[first.end : two_values.find(_SECOND_KEY, first.end)]
    nothing = conversations.turn([Call({})]) or ""
    no_values = nothing.partition(FIRST.name)[2] or None
    values = ValueTexts(one.before_key, one.key_end, between_values, no_values, is_nested="{" not in many)
    two = conversations.turn([FIRST, SECOND]) or ""
    inner, values = _without_id(values, _find(two, SECOND))
    seen = SeenCalls(inner, text, one.start, one.end, None, "", values)
    quote = one.key_end.removeprefix(number_start)
    if one.key_end == number_start:
        return _between_calls(_tagged(seen, values), two)
    if not one.key_end.startswith(number_start):
        return _between_calls(_typed(seen, values, many), two)
    if one.before_key.strip() == "(" and number_start.strip() == "=":
        return _between_calls(_pythonic(seen, quote), two)
    if quote == '"' and '"inner"' in many:
        # With a brace, it is a JSON object of another form than those that json_probe.py knows.
        return None if "{" in one.before_key else _between_calls(_quoted(seen, values), two)
    return _between_calls(_bare(seen, quote), two) if number_start.strip() == ":" else None


def with_values(marks: CallFormat, texts: ValueTexts | None) -> CallFormat:
    """Cut the marks of values. Before, `call_end` has the end of the last value, too."""
    if texts is None:
        return marks
    key_start, value_end, separator, arguments_start, call_end = _cut(texts, marks.call_end)
    key_close = ""
    if texts.repeats is not None:
        key_close, value_end = value_end, texts.repeats
    key_end, value_start = _cut_key_end(texts)
    values = TaggedValues(
        key_start=key_start,
        key_end=key_end,
        value_start=value_start,
        value_end=value_end,
        value_separator=separator,
        type_start=texts.type_start,
        text_types=texts.text_types,
        types=texts.types,
        is_json=texts.is_json,
        is_nested=texts.is_nested,
        key_close=key_close,
    )
    return replace(marks, values=values, arguments_start=arguments_start, call_end=call_end)


def _find(text: str, call: Call) -> _Call | None:
    """Find a call whose name stands before its first argument."""
    value_text = call.arguments[_KEY]
    value = text.find(value_text)
    key = text.rfind(_KEY, 0, max(value, 0))
    name = text.rfind(call.name, 0, max(key, 0))
    if name < 0:
        return None
    before_key, key_end = text[name + len(call.name) : key], text[key + len(_KEY) : value]
    return _Call(name, value + len(value_text), before_key, key_end)


def _between_calls(seen: SeenCalls, two: str) -> SeenCalls:
    """Add what stands between two calls. What belongs to a call after its value is the same for all calls."""
    first, second = _find(two, FIRST), _find(two, SECOND)
    own = _find(seen.text, FIRST)
    n_after_value = seen.end - own.end if own else 0
    if first is None or second is None or second.start < first.end:
        return seen._replace(after=seen.text[seen.end :])
    between, after = two[first.end + n_after_value : second.start], two[second.end + n_after_value :]
    return seen._replace(between=between, after=after)


def _between(text: str, key: str, value: str) -> str | None:
    at = text.find(value)
    start = text.rfind(key, 0, max(at, 0))
    return text[start + len(key) : at] if start >= 0 else None


def _without_id(values: ValueTexts, other: _Call | None) -> tuple[CallFormat, ValueTexts]:
    """Cut an id, or a number that differs between two calls, off what stands between the name and the values."""
    start, id_, rest = values.before_key.partition(FIRST.id)
    pattern = ID_PATTERN
    if not id_ and other is not None and other.before_key != values.before_key:
        found = re.search(COUNTER, values.before_key)
        if found:
            start, id_, rest = values.before_key[: found.start()], found[0], values.before_key[found.end() :]
            pattern = COUNTER
    if not id_:
        return CallFormat(), values
    no_values = (values.no_values or "").removeprefix(start + id_)
    return CallFormat(name_end=start, id_pattern=pattern), values._replace(before_key=rest, no_values=no_values)


def _tagged(seen: SeenCalls, values: ValueTexts) -> SeenCalls:
    """Values between marks. The name of a value may be repeated after it, as in <KEY>VALUE</KEY>."""
    repeated = seen.text.find(_KEY, seen.end)
    if repeated >= 0:
        repeats = seen.text[seen.end : repeated]
        between = values.between.partition(_KEY)[2]
        values = values._replace(repeats=repeats, between=between)
        seen = seen._replace(end=repeated + len(_KEY))
    return seen._replace(inner=replace(seen.inner, syntax="tagged"), values=values)


def _typed(seen: SeenCalls, values: ValueTexts, many: str) -> SeenCalls:
    """Values between marks, with a word before each that tells its type."""
    words: dict[str, str] = {}
    number_start = _between(many, _NUMBER_KEY, str(ARGUMENTS[_NUMBER_KEY])) or ""
    start = _words_cut(shared_start(values.key_end, number_start))
    end = _words_cut(shared_start(values.key_end[::-1], number_start[::-1]))[::-1]
    for key in ARGUMENTS:
        found = re.search(re.escape(key + start) + r"(\w+)" + re.escape(end), many)
        if found:
            words[key] = found[1]
    text_word = values.key_end[len(start) : len(values.key_end) - len(end)]
    types = tuple(dict.fromkeys(words.values()))
    values = values._replace(key_end=end, type_start=start, text_types=(text_word,), types=types)
    return seen._replace(inner=replace(seen.inner, syntax="tagged"), values=values)


def _words_cut(text: str) -> str:
    """Cut off the word at the end."""
    return re.sub(r"\w+\Z", "", text)


def _quoted(seen: SeenCalls, values: ValueTexts) -> SeenCalls:
    """Values between marks, all of them JSON: the quotes belong to the value."""
    values = values._replace(
        key_end=values.key_end.removesuffix('"'), between=values.between.removeprefix('"'), is_json=True
    )
    return _tagged(seen._replace(end=seen.end + 1), values)


def _pythonic(seen: SeenCalls, quote: str) -> SeenCalls:
    end = seen.text.find(")", seen.end + len(quote)) + 1
    return seen._replace(inner=CallFormat(syntax="pythonic"), end=end, values=None)


def _bare(seen: SeenCalls, quote: str) -> SeenCalls:
    """An object with bare keys, whose texts stand between quotes."""
    start = seen.values.before_key if seen.values else ""
    end = _CLOSING.get(start.strip()[-1:], "")
    inner = CallFormat(syntax="gemma", arguments_start=start, arguments_end=end, string_quote=quote)
    return seen._replace(inner=inner, end=seen.end + len(quote) + len(end), values=None)


def _cut_key_end(texts: ValueTexts) -> tuple[str, str]:
    """Cut what stands between the name of an argument and its value."""
    mark = last_mark(texts.key_end)
    at = len(texts.key_end) - len(mark)
    return (texts.key_end[:at], mark) if at > 0 and not texts.type_start else (texts.key_end, "")


def _cut(texts: ValueTexts, after: str) -> tuple[str, str, str, str, str]:
    """Cut the start of a name, the end of a value, the separator, and what stands around all values of a call.

    A call without arguments tells the last two apart. If the template writes such a call in another way, only what is
    repeated between the values counts.
    """
    before, between = texts.before_key, texts.between
    # A closing bracket after the name belongs to the mark that the name is in, as in <call:NAME>.
    starts = (cut for cut in range(int(is_rest(before)), len(before)) if is_boundary(before, cut))
    cuts = [cut for cut in starts if _fits(texts, after, cut) is not None]
    if not cuts:
        arguments_start, key_start, value_end, separator, call_end = split_repetition(before, between, after)
        return key_start, value_end, separator, arguments_start, call_end
    cut = cuts[0]
    while cut + 1 in cuts and before[cut].isspace():
        cut += 1
    value_end = _fits(texts, after, cut) or ""
    separator = between[len(value_end) : len(between) - len(before) + cut]
    return before[cut:], value_end, separator, before[:cut], after[len(value_end) :]


def _fits(texts: ValueTexts, after: str, cut: int) -> str | None:
    """Return the longest end of a value with which the values can begin at `cut`, or None."""
    key_start, no_values = texts.before_key[cut:], texts.no_values or ""
    if not no_values.startswith(texts.before_key[:cut]) or not texts.between.endswith(key_start):
        return None
    end = texts.between[: len(texts.between) - len(key_start)]
    ends = (end[:n] for n in range(len(end), -1, -1) if is_boundary(texts.between, n))
    return next((end for end in ends if after.startswith(end) and no_values.startswith(after[len(end) :], cut)), None)
