"""Honours what a request wants of the thinking: by variables of the template, or by ending the thinking."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from worker_gguf.engine.request import Thinking
from worker_gguf.protocol.calls import ChatCall
from worker_gguf.protocol.reasoning import Asked, ReasoningRequest
from worker_gguf.template.thinking import ThinkingVariables

__all__ = ["thinking_variables", "with_budget"]

Unmet = frozenset[Asked[Any]]


def thinking_variables(known: ThinkingVariables, call: ChatCall) -> tuple[dict[str, Any], Unmet]:
    """Return the variables for the template, and the wishes for which it has none."""
    reasoning, given = call.reasoning, call.template_variables
    wishes: list[tuple[Asked[Any], dict[str, Any] | None]] = []
    if reasoning.effort is not None:
        wishes.append((reasoning.effort, known.of_effort(reasoning.effort.value, given)))
    if reasoning.switch is not None:
        wishes.append((reasoning.switch, known.of_switch(reasoning.switch.value, given)))
    if reasoning.budget is not None:
        wishes.append((reasoning.budget, known.of_budget(reasoning.budget.value, given)))
    variables = dict(given)
    for _, found in wishes:
        variables |= found or {}
    return variables, frozenset(wish for wish, found in wishes if found is None)


def with_budget(
    thinking: Thinking | None, reasoning: ReasoningRequest, unmet: Unmet
) -> tuple[Thinking | None, tuple[str, ...]]:
    """Set the budget of the thinking, and return the names of the wishes that have no effect.

    `thinking` is None for a model that does not think, and `unmet` has the wishes that its template does not know. A
    model that cannot be told not to think is made to end its thinking at once.
    """
    budget = reasoning.budget.value if reasoning.budget is not None and reasoning.budget.value >= 0 else None
    if thinking is None:
        wishes = (reasoning.effort, reasoning.switch, reasoning.budget if budget is not None else None)
        ignored = [name for wish in wishes if wish is not None and wish in unmet for name in wish.names]
        return None, (*ignored, *(reasoning.message.names if reasoning.message is not None else ()))
    effort, message = reasoning.effort, reasoning.message
    no_effect = effort.names if effort is not None and effort.value != "none" and effort in unmet else ()
    offs = [wish for wish in (reasoning.switch, effort) if wish is not None and wish.value in (False, "none")]
    # Without a budget, the parser of the request has named the message.
    if offs and message is not None and budget is not None:
        no_effect += message.names
    if any(wish in unmet for wish in offs):
        return replace(thinking, budget=0, message=""), no_effect
    text = message.value if message is not None and budget is not None and not offs else ""
    return replace(thinking, budget=budget, message=text), no_effect
