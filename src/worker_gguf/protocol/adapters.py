"""Reads which LoRA adapters a request names, and finds them among those of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from worker_gguf.engine.adapters import AdapterSet, adapter_set
from worker_gguf.errors import InvalidRequest
from worker_gguf.protocol.models import AdapterCard, ModelCard, card_meant
from worker_gguf.protocol.numbers import integer
from worker_gguf.protocol.validation import invalid

__all__ = ["MAX_SCALE", "AdapterChoice", "chosen_adapters", "read_lora"]

# Adapters are trained for a scale of about 1. Far beyond it, the numbers of a model overflow.
MAX_SCALE: Final = 100.0
_KEYS: Final = frozenset({"name", "id", "scale"})


class AdapterChoice(Struct, frozen=True):
    """An adapter as the field `lora` names it: by its name, by its place in LORA, or by both.

    `scale` None means that of LORA. `param` is the place in the body.
    """

    param: str
    name: str | None = None
    number: int | None = None
    scale: float | None = None


def read_lora(
    lora: str | Mapping[str, Any] | Sequence[Any] | None,
) -> tuple[tuple[AdapterChoice, ...] | None, set[str]]:
    """Read the field `lora`. Returns None if it is not given, and the names of the fields in it without effect.

    Raises InvalidRequest.
    """
    if lora is None or lora == "":  # clients send an empty text for a field that the user left blank
        return None, set()
    ignored: set[str] = set()
    if isinstance(lora, str):
        return (AdapterChoice("lora", lora),), ignored
    if isinstance(lora, Mapping):
        return ((_choice("lora", lora, ignored),) if lora else ()), ignored
    return tuple(_item(f"lora.{place}", item, ignored) for place, item in enumerate(lora)), ignored


def chosen_adapters(
    card: ModelCard, model: str | None, choices: Sequence[AdapterChoice] | None
) -> tuple[ModelCard, AdapterSet]:
    """Return the card that a request with these choices means by `model`, and its adapters.

    The card is that of an adapter if `model` names one. Without any choice, these are the adapters of that name: one or
    none. Raises InvalidRequest for a choice that the model does not have, and for one that contradicts the name.
    """
    meant = (None if model is None else card_meant(card, model)) or card
    named = meant.adapter
    if choices is None:
        return meant, () if named is None else adapter_set([(card.adapters.index(named), named.scale)])
    scales: dict[int, float] = {}
    for choice in choices:
        number = _number(card, choice)
        if number in scales:
            raise invalid(choice.param, f"repeats {card.adapters[number].name!r}, which is named before it")
        scales[number] = card.adapters[number].scale if choice.scale is None else choice.scale
    adapters = adapter_set(scales.items())
    if named is not None and [card.adapters[number] for number, _ in adapters] != [named]:
        raise InvalidRequest(
            f"'model' names the adapter {named.name!r}, and 'lora' does not name it alone. Send one of them.",
            param="lora",
        )
    return meant, adapters


def _item(param: str, item: object, ignored: set[str]) -> AdapterChoice:
    if isinstance(item, str):
        return AdapterChoice(param, item)
    if isinstance(item, Mapping):
        return _choice(param, item, ignored)
    raise invalid(param, 'must be the name of an adapter, or an object such as {"name": "a", "scale": 0.5}')


def _choice(param: str, item: Mapping[str, Any], ignored: set[str]) -> AdapterChoice:
    given = {key: value for key, value in item.items() if value is not None}
    ignored |= {f"{param}.{key}" for key in given.keys() - _KEYS}
    name, number, scale = given.get("name"), integer(given.get("id")), given.get("scale")
    if name is None and number is None:
        raise invalid(param, "must have a name or an id")
    if name is not None and not isinstance(name, str):
        raise invalid(f"{param}.name", "must be a string")
    if number is not None and type(number) is not int:
        raise invalid(f"{param}.id", "must be an integer")
    return AdapterChoice(param, name, number, None if scale is None else _scale(f"{param}.scale", scale))


def _scale(param: str, scale: object) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise invalid(param, "must be a number")
    if not -MAX_SCALE <= scale <= MAX_SCALE:
        raise invalid(param, f"must be from -{MAX_SCALE:g} to {MAX_SCALE:g}")
    return float(scale)


def _number(card: ModelCard, choice: AdapterChoice) -> int:
    """Return the place of a chosen adapter among those of a model. Raises InvalidRequest."""
    if not card.adapters:
        raise invalid(
            choice.param,
            f"the model {card.id!r} has no adapters here. Leave it out, name another model, or load "
            "adapters with LORA (with MODELS, `lora` of its entry)",
        )
    by_name = {adapter.name.lower(): number for number, adapter in enumerate(card.adapters)}
    number = choice.number if choice.name is None else by_name.get(choice.name.lower())
    if number is None or not 0 <= number < len(card.adapters):
        named = f"the id {choice.number}" if choice.name is None else repr(choice.name)
        what = f"{named} is no adapter of the model {card.id!r}, which has {_listed(card.adapters)}"
        raise invalid(choice.param, what)
    if choice.number is not None and choice.number != number:
        raise invalid(f"{choice.param}.id", f"is not that of {card.adapters[number].name!r}, which is {number}")
    return number


def _listed(adapters: Sequence[AdapterCard]) -> str:
    return ", ".join(f"{adapter.name!r} (id {number})" for number, adapter in enumerate(adapters))
