"""Reads an answer that is reasoning, content and calls, each between markers or at the beginning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.calls import CallReader
from worker_gguf.markup.offer import Offer
from worker_gguf.markup.sink import Sink
from worker_gguf.markup.source import NOWHERE, Source, Wait, markers

__all__ = ["RegionFlow"]

_SPACE = re.compile(r"\s*")
# Between calls that have no markers of their own.
_BETWEEN = re.compile(r"[\s;,]*")
_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


class _Text:
    """A region's text. White space is passed on only together with the text after it, or at the end if it is kept."""

    def __init__(self, emit: Callable[[str], object]) -> None:
        self._emit = emit
        self._space = ""
        self._drops_space = False
        self.is_empty = True

    def begin(self, drops_space: bool) -> None:
        """Begin a region; white space at its beginning may be dropped."""
        self._space = ""
        self._drops_space = drops_space
        self.is_empty = True

    def write(self, text: str) -> None:
        body = text.rstrip()
        if not body:
            self._space += text
            return
        if self._drops_space and self.is_empty:
            self._emit(body.lstrip())
        else:
            self._emit(self._space + body)
        self._space = text[len(body) :]
        self.is_empty = False

    @property
    def is_within_line(self) -> bool:
        """Whether the text ends with a blank in the middle of a line."""
        return not self.is_empty and bool(self._space) and "\n" not in self._space

    def finish(self, keeps_space: bool) -> None:
        """End a region; white space at its end is kept or dropped."""
        if keeps_space and self._space and not (self._drops_space and self.is_empty):
            self._emit(self._space)
        self._space = ""


class RegionFlow:
    """Reads one region after another."""

    def __init__(
        self, form: CallFormat, prompt_end: str, source: Source, sink: Sink, offer: Offer, splits_reasoning: bool
    ) -> None:
        self._form = form
        self._source = source
        self._splits_reasoning = splits_reasoning
        self._content = _Text(sink.content)
        self._reasoning = _Text(sink.reasoning) if splits_reasoning else self._content
        self._sink = sink
        self._calls = CallReader(form, source, sink, offer)
        # Calls in open reasoning, which may be drafts.
        self._drafts_sink = Sink(holds_calls=True, new_id=str)
        self._drafts = CallReader(form, source, self._drafts_sink, offer)
        openers = self._calls.openers
        tags = _tags(form) if offer else (form.content_start, form.content_end, *form.ignored)
        ends = form.reasoning_ends
        texts = [*openers, form.reasoning_start, *ends, *tags]
        self._content_marks = markers(*_once(texts))
        inside = openers if form.calls_in_reasoning else [""] * len(openers)
        self._reasoning_marks = markers(*_once([*inside, form.reasoning_start, *ends, form.content_start]))
        self._openers = markers(*openers)
        self._reasoning_ends = markers(*ends)
        self._start = len(openers)
        self._ends = range(self._start + 1, self._start + 1 + len(ends))
        self._has_calls = False
        self._begins_in_call = bool(openers) and _ends_with(prompt_end, form.call_start)
        self.is_reasoning = _is_open(form, prompt_end)
        # The reasoning in the content has both of its marks, also where the prompt has written the first.
        is_just_open = self.is_reasoning and _ends_with(prompt_end, form.reasoning_start)
        self._mark_of_prompt = form.reasoning_start if is_just_open and not splits_reasoning else ""

    def run(self) -> Iterator[None]:
        """Read the whole answer."""
        self._content.begin(self._drops_space)
        if self.is_reasoning and self._splits_reasoning:
            self._reasoning.begin(drops_space=True)
        if self._begins_in_call:
            yield from self._read_call("", 0)
        while True:
            if self.is_reasoning:
                yield from self._read_reasoning()
            else:
                yield from self._read_content()
            if self._source.is_over():
                return

    @property
    def _drops_space(self) -> bool:
        """Whether white space at the beginning of the content is not part of it: templates put it after reasoning."""
        return self._form.reasons and self._splits_reasoning

    def _read_reasoning(self) -> Wait[None]:
        """Read up to the end of the reasoning, or to a call that is written inside it.

        Models also write about calls while they think. The start of a call does not count where it stands in the middle
        of a line, after a blank.
        """
        write = self._reasoning.write
        if self._mark_of_prompt and (yield from self._source.peek()):
            write(self._mark_of_prompt)
        self._mark_of_prompt = ""
        while True:
            hit = yield from self._source.until(self._reasoning_marks, write)
            mark = self._source.text[hit.start : hit.end]
            if hit.number == NOWHERE:
                self._reasoning.finish(keeps_space=True)
                return
            if hit.number == self._start:
                # A model may repeat the mark that the prompt has written.
                write("" if self._reasoning.is_empty else mark)
                continue
            self.is_reasoning = False
            if hit.number > self._start:
                if self._splits_reasoning:
                    self._reasoning.finish(keeps_space=False)
                    self._content.begin(drops_space=True)
                else:
                    self._content.write(mark)
                return
            is_mention = self._reasoning.is_within_line and not self._calls.is_section(hit.number)
            if not is_mention and (yield from self._read_call_in_reasoning(mark, hit.number)):
                return
            if is_mention:
                write(mark)
            self.is_reasoning = True

    def _read_call_in_reasoning(self, mark: str, number: int) -> Wait[bool]:
        """Read calls that are written while the reasoning is open. Return whether the reasoning has ended.

        Models draft calls while they think, and some make them there. What is made is the last thing of an answer. So
        these calls are held until it is known what follows; if it is more text, all of it was reasoning.
        """
        self._source.record()
        outcome = yield from self._drafts.read(number)
        while outcome != "text" and (opener := (yield from self._source.follows(self._openers))) != NOWHERE:
            yield from self._source.skip_space()
            yield from self._source.take(self._openers)
            outcome = yield from self._drafts.read(opener)
        end_of_calls = len(self._source.recorded())
        has_end = (yield from self._source.follows(self._reasoning_ends)) != NOWHERE
        if has_end:
            yield from self._source.skip_space()
            yield from self._source.take(self._reasoning_ends)
        is_last = (yield from self._source.skip_space()) == "" and outcome != "text"
        text = self._source.recorded()
        self._source.end_record()
        if is_last:
            self._reasoning.finish(keeps_space=not self._splits_reasoning)
            self._content.write("" if self._splits_reasoning else text[end_of_calls:])
            self._sink.take_calls(self._drafts_sink)
            self._begin_after_call()
            return True
        self._drafts_sink.take()
        self._reasoning.write(mark + (text[:end_of_calls] if has_end and self._splits_reasoning else text))
        if has_end and self._splits_reasoning:
            self._reasoning.finish(keeps_space=False)
            self._content.begin(drops_space=True)
        return has_end

    def _read_content(self) -> Wait[None]:
        """Read up to the beginning of reasoning, or to the end."""
        if self._calls.has_no_marker and self._content.is_empty:
            yield from self._read_calls_at_start()
        while True:
            hit = yield from self._source.until(self._content_marks, self._content.write)
            mark = self._source.text[hit.start : hit.end]
            if hit.number == NOWHERE:
                self._content.finish(keeps_space=not (self._has_calls and self._content.is_empty))
                return
            if hit.number < self._start:
                yield from self._read_call(mark, hit.number)
            elif hit.number == self._start:
                if self._content.is_empty:
                    self._begin_reasoning(mark)
                    return
                if (yield from self._source.follows(self._reasoning_ends)) == NOWHERE:
                    self._content.write(mark)
                else:
                    yield from self._source.skip_space()
                    yield from self._source.take(self._reasoning_ends)
            elif hit.number in self._ends and not self._content.is_empty:
                self._content.write(mark)

    def _begin_reasoning(self, mark: str) -> None:
        self.is_reasoning = True
        if self._splits_reasoning:
            self._reasoning.begin(drops_space=True)
        else:
            self._content.write(mark)

    def _read_call(self, mark: str, number: int) -> Wait[None]:
        """Read calls after a marker that opens them. What turns out to be none is content without the marker."""
        if not (self._form.before_calls or self._content.is_empty):
            self._content.finish(keeps_space=True)
        outcome = yield from self._calls.read(number)
        if outcome == "text" and not (self._source.is_over() and _TAG.search(mark)):
            self._content.write(_TAG.sub("", mark))
            return
        self._content.finish(keeps_space=False)
        if outcome == "content":
            self._content.begin(drops_space=False)
        else:
            self._begin_after_call()

    def _read_calls_at_start(self) -> Wait[None]:
        """Read calls that begin with an ordinary character, where nothing but other calls came before."""
        while True:
            between = yield from self._source.run(_BETWEEN if self._has_calls else _SPACE)
            if (yield from self._calls.read_unmarked()) == "text":
                self._content.write(between)
                return
            self._begin_after_call()

    def _begin_after_call(self) -> None:
        self._has_calls = True
        self._content.begin(drops_space=False)


def _tags(form: CallFormat) -> list[str]:
    """Return what is never content: every tag in the format's texts."""
    values = form.values
    texts = [form.section_start, form.section_end, form.call_start, form.call_end, form.name_end, form.arguments_start]
    if values is not None:
        texts += [values.key_start, values.key_end, values.value_start, values.value_end]
    whole = [text for text in (form.section_start, form.section_end, form.call_end) if _is_tag(text)]
    tags = [tag for text in texts for tag in _TAG.findall(text)]
    return [*whole, *tags, form.content_start, form.content_end, *form.ignored]


def _is_tag(text: str) -> bool:
    return text.strip()[:1] in ("<", "[") and text.strip()[-1:] in (">", "]")


def _once(texts: list[str]) -> list[str]:
    """Return the texts, with "" in place of one that came before."""
    seen: set[str] = set()
    found = []
    for text in texts:
        found.append("" if text.strip() in seen else text)
        seen.add(text.strip())
    return found


def _ends_with(prompt_end: str, marker: str) -> bool:
    return bool(marker.strip()) and prompt_end.rstrip().endswith(marker.strip())


def _is_open(form: CallFormat, prompt_end: str) -> bool:
    """Whether the prompt ends inside the reasoning."""
    if not form.reasoning_ends:
        return False
    closed_at = max(prompt_end.rfind(end.strip()) for end in form.reasoning_ends)
    if not form.reasoning_start.strip():
        return closed_at < 0
    return prompt_end.rfind(form.reasoning_start.strip()) > closed_at
