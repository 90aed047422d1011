"""Converts checked fields to SamplingParams: seed, sampler names, logit bias. Needs no tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from worker_gguf.engine.request import SAMPLERS, SamplingParams
from worker_gguf.protocol.bodies import MAX_BREAKERS, MAX_TEXT, Common
from worker_gguf.protocol.numbers import integer
from worker_gguf.protocol.validation import invalid
from worker_gguf.protocol.wellformed import is_encodable

__all__ = ["MAX_BIAS", "MAX_BIASES", "read_sampling"]

MAX_BIASES = 10_000
# Much larger than any logit, and much smaller than the limit of float32.
MAX_BIAS = 1e6

_LETTERS = dict(zip("edskypmxtai", SAMPLERS, strict=True))
_OTHER_NAMES = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p", "typical": "typ_p", "typical_p": "typ_p"}
_BY_HAND = frozenset({"seed", "samplers", "logit_bias", "dry_sequence_breakers"})
_PLAIN = tuple(name for name in SamplingParams.__struct_fields__ if name not in _BY_HAND)
_RANDOM_SEEDS = (-1, 2**32 - 1)

Biases = tuple[tuple[int, float], ...]
TextBiases = tuple[tuple[str, float], ...]


def read_sampling(body: Common, defaults: SamplingParams) -> tuple[SamplingParams, TextBiases]:
    """Replace defaults by the values of a request. Returns biases of texts separately, because they need a tokenizer.

    Raises InvalidRequest.
    """
    values = {name: value for name in _PLAIN if (value := getattr(body, name)) is not None}
    if body.dry_sequence_breakers is not None:
        values["dry_sequence_breakers"] = _read_breakers(body.dry_sequence_breakers)
    if body.seed is not None:
        values["seed"] = _fold(body.seed)
    if body.samplers is not None:
        values["samplers"] = _read_samplers(body.samplers)
    texts: TextBiases = ()
    if body.logit_bias is not None:
        values["logit_bias"], texts = _read_biases(body.logit_bias)
    return replace(defaults, **values), texts


def _fold(seed: int) -> int | None:
    """Reduce a seed to 32 bits, or return None for a random seed.

    -1 and 2^32 - 1 mean a random seed in llama-server, so the result is never 2^32 - 1.
    """
    return None if seed in _RANDOM_SEEDS else seed % (2**32 - 1)


def _read_breakers(breakers: str | Sequence[str]) -> tuple[str, ...]:
    """Read a list, or the JSON of a list, with or without its brackets, as text-generation-webui's clients send it."""
    if not isinstance(breakers, str):
        return tuple(breakers)
    try:
        items = json.loads(breakers if breakers.lstrip().startswith("[") else f"[{breakers}]")
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list) or len(items) > MAX_BREAKERS or not all(map(_is_breaker, items)):
        raise invalid("dry_sequence_breakers", f"must be a list of at most {MAX_BREAKERS} texts, or the JSON of one")
    return tuple(items)


def _is_breaker(item: object) -> bool:
    return isinstance(item, str) and 0 < len(item) <= MAX_TEXT and is_encodable(item)


def _read_samplers(samplers: str | Sequence[str]) -> tuple[str, ...]:
    names = [_sampler(name) for name in _split(samplers)]
    unknown = next((place for place, name in enumerate(names) if name is None), None)
    if unknown is not None:
        param = "samplers" if isinstance(samplers, str) else f"samplers.{unknown}"
        raise invalid(param, f"names a sampler that is none of {', '.join(SAMPLERS)}")
    if len(set(names)) < len(names):
        raise invalid("samplers", "names a sampler twice")
    return tuple(name for name in names if name is not None)


def _split(samplers: str | Sequence[str]) -> Iterable[str]:
    if not isinstance(samplers, str):
        return samplers
    # Both forms are llama-server's: one letter for each sampler in requests, names and semicolons on its command line.
    if samplers and set(samplers) <= _LETTERS.keys() and _sampler(samplers) is None:
        return [_LETTERS[letter] for letter in samplers]
    return [name for part in samplers.split(";") if (name := part.strip())]


def _sampler(name: str) -> str | None:
    """Return the name of a sampler from any spelling that llama.cpp accepts: top-k, topk, TOP_K. None if unknown."""
    plain = name.lower().replace("-", "_")
    if plain in SAMPLERS:
        return plain
    if plain in _OTHER_NAMES:
        return _OTHER_NAMES[plain]
    return next((known for known in SAMPLERS if known.replace("_", "") == plain), None)


def _read_biases(logit_bias: dict[str, Any] | list[Any]) -> tuple[Biases, TextBiases]:
    if len(logit_bias) > MAX_BIASES:
        raise invalid("logit_bias", f"must have at most {MAX_BIASES} items")
    tokens: list[tuple[int, float]] = []
    texts: list[tuple[str, float]] = []
    for param, key, value in _pairs(logit_bias):
        bias = _bias(param, value)
        if isinstance(key, int):
            tokens.append((key, bias))
        else:
            texts.append((key, bias))
    return tuple(tokens), tuple(texts)


def _pairs(logit_bias: dict[str, Any] | list[Any]) -> Iterable[tuple[str, int | str, object]]:
    if isinstance(logit_bias, dict):
        for key, value in logit_bias.items():
            # As in llama-server, a key that is not a number is a text.
            number = re.fullmatch(r"[+-]?[0-9]{1,20}", key)
            yield "logit_bias", _token("logit_bias", int(key) if number else key), value
        return
    for place, pair in enumerate(logit_bias):
        param = f"logit_bias.{place}"
        if not isinstance(pair, list) or len(pair) != 2:
            raise invalid(param, "must be a list of two: a token id or a text, and a bias or false")
        yield param, _token(param, pair[0]), pair[1]


def _token(param: str, key: object) -> int | str:
    """Check the id or text of a token. Any integer is accepted, because the valid ids depend on the vocabulary."""
    key = integer(key)
    if (isinstance(key, str) and key) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    raise invalid(param, "must name a token by its id or by a text that is not empty")


def _bias(param: str, value: object) -> float:
    if value is False:
        return float("-inf")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_BIAS:
        raise invalid(param, f"the bias must be a number from -{MAX_BIAS:.0f} to {MAX_BIAS:.0f}, or false")
    return float(value)
