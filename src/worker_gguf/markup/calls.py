"""Reads calls from the marker that opens them on."""

from __future__ import annotations

from worker_gguf.markup.call_format import CallFormat, without_name
from worker_gguf.markup.gemma_call import GemmaReader
from worker_gguf.markup.json_call import JsonCallReader, Outcome, read_arguments
from worker_gguf.markup.offer import Offer
from worker_gguf.markup.pythonic_call import read_pythonic_call
from worker_gguf.markup.sink import Sink
from worker_gguf.markup.source import NOWHERE, Markers, Source, Wait, markers
from worker_gguf.markup.tagged_call import TaggedReader

__all__ = ["CallReader"]

_CALL, _SECTION = 0, 1
_MAX_NAME = 256
# The numbers of the markers that end a name.
_NAME_START, _NAME_END, _ARGUMENTS, _EMPTY, _CALL_END = range(5)


class CallReader:
    """Reads the calls of an answer. `openers` are the texts that open calls: of a call, of a section, and others."""

    def __init__(self, form: CallFormat, source: Source, sink: Sink, offer: Offer) -> None:
        self._form = form
        self._source = source
        self._sink = sink
        self._offer = offer
        self._call_start = without_name(form.call_start)
        is_active = bool(offer or form.content_names)
        self.openers = [self._call_start, form.section_start, *form.other_starts] if is_active else []
        self.has_no_marker = bool(offer) and form.syntax is not None and not (self._call_start or form.section_start)
        self._in_section = markers(self._call_start, form.section_end)
        self._section_end = markers(form.section_end)
        self._separator = markers(form.separator.strip())
        self._json = JsonCallReader(form.json_call, is_strict=self.has_no_marker)
        self._gemma = GemmaReader(form)
        self._tagged = TaggedReader(form, form.values) if form.values else None
        self._name_ends = markers(*_name_ends(form))
        self._arguments_start = markers(form.arguments_start)
        self._call_end = markers(form.call_end)
        self._resume = markers(form.call_end, form.section_end, self._call_start, form.section_start)

    def is_section(self, opener: int) -> bool:
        """Whether the opener of this number opens a section of calls, and not a call."""
        return opener == _SECTION and bool(self._call_start)

    def read(self, opener: int) -> Wait[Outcome]:
        """Read a call, or the calls of a section, after the opener of this number was read.

        If it is "text", nothing after the opener has been read.
        """
        if self.is_section(opener):
            return (yield from self._read_section())
        outcome = yield from self._read_one_or_list()
        while outcome == "call" and (yield from self._another_follows()):
            if (yield from self._read_one_or_list()) != "call":
                break
        if outcome == "call":
            yield from self._skip(self._section_end)
        return outcome

    def read_unmarked(self) -> Wait[Outcome]:
        """Read calls that no marker opens."""
        if (yield from self._source.peek()) != ("[" if self._form.is_array else "{"):
            return "text"
        return (yield from self._read_one_or_list())

    def _another_follows(self) -> Wait[bool]:
        """Whether another call comes at once, in a section whose calls have no markers of their own."""
        if self._call_start or (yield from self._source.follows(self._section_end)) != NOWHERE:
            return False
        yield from self._skip(self._separator)
        is_pythonic = self._form.syntax == "pythonic"
        starts = Markers(f"{name}(" for name in self._offer) if is_pythonic else markers("{")
        return (yield from self._source.follows(starts)) != NOWHERE

    def _read_section(self) -> Wait[Outcome]:
        """Read calls up to the end of the section. Other text between them means nothing."""
        while True:
            hit = yield from self._source.until(self._in_section, _drop)
            if hit.number != _CALL:
                return "call"
            yield from self._read_one_or_list()

    def _read_one_or_list(self) -> Wait[Outcome]:
        self._source.keep()
        is_list_allowed = self._form.syntax in ("json_object", "pythonic")
        if (yield from self._source.skip_space()) == "[" and is_list_allowed:
            outcome = yield from self._read_list()
        else:
            outcome = yield from self._read_call()
        if outcome == "text" or (outcome == "cut" and self.has_no_marker):
            self._source.rewind()
            return "text"
        self._source.forget()
        if outcome == "broken":
            yield from self._skip_broken()
        else:
            yield from self._skip(self._call_end)
        return outcome

    def _skip(self, marker: Markers) -> Wait[None]:
        """Read a marker if it is next, and the white space before it."""
        if (yield from self._source.follows(marker)) != NOWHERE:
            yield from self._source.skip_space()
            yield from self._source.take(marker)

    def _read_list(self) -> Wait[Outcome]:
        """Read calls in brackets. A list of Python that is cut has no calls, as it would be no list for Python."""
        if self._form.syntax == "pythonic":
            self._sink.begin_list()
        self._source.at += 1
        outcome: Outcome = "text"
        while True:
            character = yield from self._source.skip_space()
            if character == "]":
                self._source.at += 1
                self._sink.end_list()
                return outcome
            if character == ",":
                self._source.at += 1
                continue
            found = yield from self._read_call()
            if found != "call":
                self._sink.drop_list()
                return "broken" if outcome == "call" else found
            outcome = "call"

    def _read_call(self) -> Wait[Outcome]:
        if self._form.syntax == "json_object":
            character = yield from self._source.skip_space()
            if character != "{":
                return "text" if character else "cut"
            return (yield from self._json.read(self._source, self._offer, self._sink))
        if self._form.syntax == "pythonic":
            return (yield from read_pythonic_call(self._source, self._offer, self._sink))
        return (yield from self._read_named_call())

    def _read_named_call(self) -> Wait[Outcome]:
        written = ""
        while True:
            hit = self._name_ends.find(self._source.text, self._source.at, self._source.ended)
            written += self._source.text[self._source.at : hit.start]
            mark = self._source.text[hit.start : hit.end]
            self._source.at = hit.end
            if hit.number == _NAME_START:
                written = ""
            elif hit.number != NOWHERE:
                break
            elif len(written) > _MAX_NAME or not (yield from self._source.more()):
                unfinished = self._name_ends.find(written, 0, ended=False).start
                return "cut" if self._offer.has_beginning(written[:unfinished]) else "text"
        if written.strip() in self._form.content_names:
            return "content"
        name = self._offer.name(written)
        if name is None:
            return "text"
        self._source.forget()
        self._sink.open_call(name)
        if hit.number == _NAME_END:
            yield from self._source.until(self._arguments_start, _drop)
        elif hit.number > _EMPTY:
            self._source.unread(mark)
        if hit.number == _EMPTY or (hit.number >= _CALL_END and self._tagged is None):
            self._sink.arguments("{}")
        elif not (yield from self._read_arguments(name)):
            self._sink.drop_call()
            return "broken"
        self._sink.close_call()
        return "call"

    def _read_arguments(self, name: str) -> Wait[bool]:
        if self._tagged is not None:
            return (yield from self._tagged.read(self._source, self._offer.parameters(name), self._sink.arguments))
        if self._form.syntax == "gemma":
            return (yield from self._gemma.read(self._source, self._sink.arguments))
        yield from self._source.skip_space()
        last = yield from read_arguments(self._source, self._sink.arguments)
        self._sink.arguments(last or "")
        return last is not None

    def _skip_broken(self) -> Wait[None]:
        """Drop the rest of a call that is not whole, up to its end or to the next call."""
        hit = yield from self._source.until(self._resume, _drop)
        if hit.number > _SECTION:
            self._source.unread(self._source.text[hit.start : hit.end])


def _name_ends(form: CallFormat) -> list[str]:
    """Return the texts that can come before and after a name, in the order of the numbers above.

    A tag may close itself, as in `<invoke name="f"/>`. A call without arguments may end right after the name, and a
    model may forget the mark of its end.
    """
    start = form.arguments_start.strip()
    empty = f"{start[:-1]}/>" if start.endswith(">") else ""
    first_value = form.values.key_start if form.values else ""
    call_ends = [form.call_end, form.first_call_end]
    others = [form.section_end, form.call_start]
    return [form.name_start, form.name_end, form.arguments_start, empty, *call_ends, first_value, *others]


def _drop(text: str) -> None:
    """Text in a section that is in no call, or what follows a call's name, means nothing."""
