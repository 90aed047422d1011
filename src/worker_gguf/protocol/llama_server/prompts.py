"""Reads the forms of a prompt: a text, ids of tokens, both in one list, an object with a text, or a list of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker_gguf.errors import UnsupportedParameter
from worker_gguf.protocol.bodies import MAX_INT32
from worker_gguf.protocol.calls import MAX_SEQUENCES, MixedPrompt, Prompt
from worker_gguf.protocol.numbers import integers
from worker_gguf.protocol.validation import invalid, required

__all__ = ["read_content", "read_prompts"]

_FORMS = "must be a text, a list of texts and token ids, or an object with a prompt_string"


def read_prompts(prompt: str | list[Any] | dict[str, Any]) -> tuple[Prompt, ...]:
    """Read the prompts of a completion. A list with a number is one prompt. Raises InvalidRequest."""
    if not isinstance(prompt, list):
        return (_read_prompt(prompt, "prompt"),)
    if not prompt:
        raise invalid("prompt", "must not be empty")
    if any(isinstance(part, int | float) for part in prompt):
        return (_read_prompt(prompt, "prompt"),)
    if len(prompt) > MAX_SEQUENCES:
        raise invalid("prompt", f"must have at most {MAX_SEQUENCES} prompts, not {len(prompt)}")
    return tuple(_read_prompt(item, f"prompt.{place}") for place, item in enumerate(prompt))


def read_content(content: str | Sequence[Any], place: str) -> str | tuple[int, ...] | MixedPrompt:
    """Read a text, or a list of texts and ids. Raises InvalidRequest, which names the part at `place`."""
    if isinstance(content, str):
        return content
    parts = integers(list(content))
    assert isinstance(parts, list)
    kinds = set(map(type, parts))
    wrong = (
        next((at for at, part in enumerate(parts) if type(part) not in (int, str)), None)
        if kinds - {int, str}
        else None
    )
    if wrong is not None:
        raise invalid(f"{place}.{wrong}", "must be a text or the id of a token")
    if int in kinds:
        _check_ids(parts, place)
    return tuple(parts) if kinds == {int} else MixedPrompt(tuple(parts))


def _check_ids(parts: Sequence[str | int], place: str) -> None:
    wrong = next((at for at, part in enumerate(parts) if isinstance(part, int) and not 0 <= part <= MAX_INT32), None)
    if wrong is not None:
        raise invalid(f"{place}.{wrong}", f"must be from 0 to {MAX_INT32}")


def _read_prompt(prompt: object, place: str) -> Prompt:
    match prompt:
        case str():
            return prompt
        case list():
            if not prompt:
                raise invalid(place, "must not be empty")
            return read_content(prompt, place)
        case dict():
            if prompt.get("multimodal_data"):
                message = f"'{place}.multimodal_data' cannot be honoured here. Leave it out, and send text only."
                raise UnsupportedParameter(message, param=f"{place}.multimodal_data")
            if "prompt_string" not in prompt:
                raise required(f"{place}.prompt_string")
            text = prompt["prompt_string"]
            if not isinstance(text, str | list):
                raise invalid(f"{place}.prompt_string", "must be a text or a list of texts and token ids")
            return read_content(text, f"{place}.prompt_string")
        case _:
            raise invalid(place, _FORMS)
