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
    `begin_list`, also calls that are closed are held until `end_list`, and `drop_list` drops them.
    """

    def __init__(self, holds_calls: bool, new_id: Callable[[], str]) -> None:
        self._holds_calls = holds_calls
        self._new_id = new_id
        self._parts: list[Part] = []
        # The part that is being collected: its beginning, without a text, and its pieces.
        self._begun: Part | None = None
        self._pieces: list[str] = []
        self._n_calls = 0
        self._held: tuple[str, list[str]] | None = None
        self._list: list[tuple[str, list[str]]] | None = None
        self._is_open = False
        self._has_dropped = False

    @property
    def has_half_call(self) -> bool:
        """Whether a call that began is not complete, or never was when it was dropped."""
        return self._is_open or self._has_dropped

    def take(self) -> list[Part]:
        """Return the parts since the last call of this."""
        self._begin(None)
        parts = self._parts
        self._parts = []
        return parts

    def content(self, text: str) -> None:
        if not isinstance(self._begun, Content):
            self._begin(Content(""))
        self._pieces.append(text)

    def reasoning(self, text: str) -> None:
        if not isinstance(self._begun, Reasoning):
            self._begin(Reasoning(""))
        self._pieces.append(text)

    def open_call(self, name: str) -> None:
        self._is_open = True
        if self._holds_calls:
            self._held = (name, [])
        else:
            self._begin_call(name)

    def arguments(self, text: str) -> None:
        if self._held is not None:
            self._held[1].append(text)
            return
        if not isinstance(self._begun, ToolCall):
            self._begin(ToolCall(self._n_calls - 1, None, None, ""))
        self._pieces.append(text)

    def close_call(self) -> None:
        self._is_open = False
        if self._held is not None and self._list is not None:
            self._list.append(self._held)
        elif self._held is not None:
            self._emit(*self._held)
        self._held = None

    def drop_call(self) -> None:
        self._is_open, self._has_dropped = False, True
        self._held = None

    def take_calls(self, other: Sink) -> None:
        """Add the calls of another sink that holds them, as calls of this one."""
        for part in other.take():
            if isinstance(part, ToolCall):
                self.open_call(part.name or "")
                self.arguments(part.arguments)
                self.close_call()

    def begin_list(self) -> None:
        self._list = []

    def end_list(self) -> None:
        for name, arguments in self._list or ():
            self._emit(name, arguments)
        self._list = None

    def drop_list(self) -> None:
        self._list = None

    def _emit(self, name: str, arguments: list[str]) -> None:
        self._begin_call(name)
        self._pieces.extend(arguments)

    def _begin_call(self, name: str) -> None:
        self._begin(ToolCall(self._n_calls, self._new_id(), name, ""))
        self._n_calls += 1

    def _begin(self, part: Part | None) -> None:
        """End the part that is being collected, and begin this one."""
        text = "".join(self._pieces)
        match self._begun:
            case ToolCall() as call if text or call.name is not None:
                self._parts.append(call._replace(arguments=text))
            case Content() if text:
                self._parts.append(Content(text))
            case Reasoning() if text:
                self._parts.append(Reasoning(text))
        self._begun = part
        self._pieces = []
