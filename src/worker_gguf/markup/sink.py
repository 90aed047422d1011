"""Takes what a parser found and makes the parts of it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

from worker_gguf.markup.parts import Content, Part, Reasoning, ToolCall

__all__ = ["Sink", "new_call_id"]

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9


def new_call_id() -> str:
    """Return an id for a call: nine letters and digits, since Mistral's templates refuse any other."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


class Sink:
    """Collects the parts of one answer. Pieces of the same kind that come together are joined.

    A call is opened, written and closed, or dropped. With `holds_calls`, a call is a part only once it is closed, so
    one that is dropped never was there; without, its pieces are parts at once, and those of a dropped call stay. After
    `begin_list`, also calls that are closed are held until `end_list`.
    """

    def __init__(self, holds_calls: bool, new_id: Callable[[], str]) -> None:
        self._holds_calls = holds_calls
        self._new_id = new_id
        self._parts: list[Part] = []
        self._n_calls = 0
        self._name: str | None = None
        self._arguments: list[str] = []
        self._list: list[tuple[str, str]] | None = None

    def take(self) -> list[Part]:
        """Return the parts since the last call of this."""
        parts = self._parts
        self._parts = []
        return parts

    def content(self, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Content):
            self._parts[-1] = Content(last.text + text)
        elif text:
            self._parts.append(Content(text))

    def reasoning(self, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, Reasoning):
            self._parts[-1] = Reasoning(last.text + text)
        elif text:
            self._parts.append(Reasoning(text))

    def open_call(self, name: str) -> None:
        self._name = name
        if not self._holds_calls:
            self._parts.append(ToolCall(self._n_calls, self._new_id(), name, ""))
            self._n_calls += 1

    def arguments(self, text: str) -> None:
        if self._holds_calls:
            self._arguments.append(text)
        elif text:
            self._write(text)

    def close_call(self) -> None:
        if self._holds_calls and self._name is not None:
            call = (self._name, "".join(self._arguments))
            if self._list is None:
                self._emit(*call)
            else:
                self._list.append(call)
        self.drop_call()

    def drop_call(self) -> None:
        self._name = None
        self._arguments = []

    def begin_list(self) -> None:
        self._list = []

    def end_list(self) -> None:
        for name, arguments in self._list or ():
            self._emit(name, arguments)
        self._list = None

    def _emit(self, name: str, arguments: str) -> None:
        self._parts.append(ToolCall(self._n_calls, self._new_id(), name, arguments))
        self._n_calls += 1

    def _write(self, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, ToolCall) and last.number == self._n_calls - 1:
            self._parts[-1] = last._replace(arguments=last.arguments + text)
        else:
            self._parts.append(ToolCall(self._n_calls - 1, None, None, text))
