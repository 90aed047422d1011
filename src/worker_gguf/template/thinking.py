"""Finds the variables by which a chat template changes the thinking: a switch, an effort, a budget.

Templates have many names for them, so each known name is tried, and counts if it changes the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

__all__ = ["Switch", "ThinkingVariables", "probe_thinking"]

# Returns the prompt of a small conversation with these variables, or None if the template refuses them.
Prompt = Callable[..., str | None]


class Switch(NamedTuple):
    """A variable that turns thinking on and off, and its two values."""

    name: str
    on: object = True
    off: object = False


# The names in published templates. Several may work in one template; the first one is used.
_SWITCHES = (
    Switch("enable_thinking"),
    Switch("thinking"),
    Switch("enable_reasoning"),
    Switch("reasoning"),
    Switch("thinking_mode", "enabled", "disabled"),
    Switch("thinking_option", "on", "off"),
    Switch("thinking_budget", -1, 0),
)
_EFFORT, _BUDGET = "reasoning_effort", "thinking_budget"
# The efforts that clients send, in their order.
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Where a template prints any effort that it gets, models were trained with these and those that its source names.
_COMMON = ("none", "low", "medium", "high")
# Hunyuan's word for none.
_NONE = "no_think"
_NEEDLE = "needle7391"
_QUOTED = re.compile(r"""['"]([\w-]{1,64})['"]""")


class ThinkingVariables(Struct, frozen=True):
    """The variables of one template. `efforts` are those that it knows, in their order.

    `words` are all words in quotes in its source, of which another effort may be one.
    """

    switch: Switch | None = None
    efforts: tuple[str, ...] = ()
    reads_budget: bool = False
    words: frozenset[str] = frozenset()

    def of_switch(self, is_on: bool, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the variables that turn thinking on or off, or None if the template has no switch.

        `given` are the variables of the request, here and below. They have priority.
        """
        if self.switch is None:
            return None
        return {} if self.switch.name in given else {self.switch.name: self.switch.on if is_on else self.switch.off}

    def of_effort(self, effort: str, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the variables that set an effort, or None if the template knows neither efforts nor a switch.

        An effort that nobody knows has none either, since a model would read the word as it is.

        "none" turns thinking off, and any other effort turns it on, if there is a switch. An effort that the template
        does not know becomes the next one that it knows.
        """
        if _EFFORT in given:
            return {}
        switched = self.of_switch(effort != "none", given)
        if not self.efforts or (effort == "none" and switched is not None):
            return switched
        known = self._known(effort)
        return None if known is None else {**(switched or {}), _EFFORT: known}

    def of_budget(self, n_tokens: int, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the variables that tell the model its budget, or None if the template has none."""
        if not self.reads_budget:
            return None
        return {} if _BUDGET in given else {_BUDGET: n_tokens}

    def _known(self, effort: str) -> str | None:
        if effort in self.efforts:
            return effort
        if effort not in _EFFORTS:
            return effort if effort in self.words else None
        if effort == "none" and _NONE in self.efforts:
            return _NONE
        place = _EFFORTS.index(effort)
        known = [other for other in self.efforts if other in _EFFORTS and other != "none"]
        return min(known, key=lambda other: abs(_EFFORTS.index(other) - place), default=effort)


def probe_thinking(source: str, prompt: Prompt) -> ThinkingVariables:
    """Find the variables of a template. `source` is its text."""

    def changes(name: str, *values: object, **others: object) -> bool:
        prompts = {prompt(**others, **{name: value}) for value in values} - {None}
        return len(prompts) > 1

    switch = next((switch for switch in _SWITCHES if changes(switch.name, switch.on, switch.off)), None)
    # Some templates read the effort only while thinking is on.
    on = {} if switch is None or switch.name in (_EFFORT, _BUDGET) else {switch.name: switch.on}
    reads_effort = changes(_EFFORT, *_EFFORTS[1:], **on)
    return ThinkingVariables(
        switch,
        tuple(_efforts(source, lambda effort: prompt(**on, **{_EFFORT: effort}))) if reads_effort else (),
        changes(_BUDGET, 512, 4096),
        frozenset(_QUOTED.findall(source)) if reads_effort else frozenset(),
    )


def _efforts(source: str, prompt: Callable[[str], str | None]) -> list[str]:
    known = [effort for effort in (*_EFFORTS, _NONE) if prompt(effort) is not None]
    if _NEEDLE not in (prompt(_NEEDLE) or ""):
        return [effort for effort in known if effort != _NONE or _is_named(source, effort)]
    return [effort for effort in known if effort in _COMMON or _is_named(source, effort)]


def _is_named(source: str, word: str) -> bool:
    return bool(re.search(rf"""['"]{word}['"]""", source))
