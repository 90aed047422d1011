"""The sampler chain of a request in llama.cpp, built from its sampling parameters in the order of llama-server."""

from __future__ import annotations

import ctypes
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import EngineFailed
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.model import Model
from worker_gguf.llama.own_samplers import OwnSampler, smoothing, top_a

__all__ = ["Chain", "ChainFactory", "dry_is_active", "penalties_are_active", "resolve_windows"]

# A new DRY sampler searches the whole vocabulary for its breakers, so one of each kind is kept as a prototype and
# cloned.
_MAX_DRY_PROTOTYPES = 16

_BEFORE_TOP_A = ("penalties", "dry", "smoothing", "top_n_sigma", "top_k", "typ_p", "top_p")

_Sampler = int  # a pointer, as llama_cpp returns it
_DryKey = tuple[float, float, int, int, tuple[str, ...]]


def penalties_are_active(params: SamplingParams) -> bool:
    neutral = params.repeat_penalty == 1.0 and params.presence_penalty == 0.0 and params.frequency_penalty == 0.0
    return params.mirostat == 0 and "penalties" in params.samplers and params.repeat_last_n != 0 and not neutral


def dry_is_active(params: SamplingParams) -> bool:
    enabled = params.dry_multiplier != 0.0 and params.dry_base >= 1.0 and params.dry_penalty_last_n != 0
    return params.mirostat == 0 and "dry" in params.samplers and enabled


def resolve_windows(params: SamplingParams, n_ctx: int) -> SamplingParams:
    """Replace -1, which means the whole context, with `n_ctx`, and limit both windows to `n_ctx`."""
    return replace(
        params,
        repeat_last_n=n_ctx if params.repeat_last_n < 0 else min(params.repeat_last_n, n_ctx),
        dry_penalty_last_n=n_ctx if params.dry_penalty_last_n < 0 else min(params.dry_penalty_last_n, n_ctx),
    )


def _active(params: SamplingParams) -> list[str]:
    """Return the samplers to build, in order. adaptive_p is not one: it draws the token and is added last."""
    off = {"adaptive_p"}
    if not penalties_are_active(params):
        off.add("penalties")
    if not dry_is_active(params):
        off.add("dry")
    names = [name for name in params.samplers if name not in off]
    # Where text-generation-webui applies them: before the samplers that remove tokens, and after top_p.
    if params.smoothing_factor > 0:
        names.insert(_place_after(names, "penalties", "dry"), "smoothing")
    if params.top_a > 0:
        names.insert(_place_after(names, *_BEFORE_TOP_A), "top_a")
    return names


def _place_after(names: Sequence[str], *before: str) -> int:
    return max((place + 1 for place, name in enumerate(names) if name in before), default=0)


class Chain:
    """Owns one sampler chain.

    `apply` selects one of the candidates; `accept` adds a drawn token to the chain's state.
    """

    def __init__(self, pointer: _Sampler) -> None:
        self._pointer: _Sampler | None = pointer
        self._kept: list[OwnSampler] = []

    def add(self, sampler: _Sampler | None) -> None:
        if not sampler:
            raise EngineFailed("llama.cpp could not create a sampler.")
        llama_cpp.llama_sampler_chain_add(self._pointer, sampler)

    def add_own(self, sampler: OwnSampler) -> None:
        self._kept.append(sampler)
        self.add(sampler.pointer)

    def apply(self, candidates: llama_cpp.llama_token_data_array) -> None:
        llama_cpp.llama_sampler_apply(self._pointer, ctypes.byref(candidates))

    def accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._pointer, token)

    def close(self) -> None:
        if self._pointer is not None:
            llama_cpp.llama_sampler_free(self._pointer)
            self._pointer = None
            self._kept.clear()


class ChainFactory:
    """Creates chains for one model. For one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._dry: OrderedDict[_DryKey, _Sampler] = OrderedDict()
        self._makers: dict[str, Callable[[SamplingParams, int], _Sampler | None]] = {
            "penalties": self._penalties,
            "dry": self._dry_clone,
            "top_n_sigma": lambda p, _: llama_cpp.llama_sampler_init_top_n_sigma(p.top_n_sigma),
            "top_k": lambda p, _: llama_cpp.llama_sampler_init_top_k(p.top_k),
            "typ_p": lambda p, _: llama_cpp.llama_sampler_init_typical(p.typical_p, p.min_keep),
            "top_p": lambda p, _: llama_cpp.llama_sampler_init_top_p(p.top_p, p.min_keep),
            "min_p": lambda p, _: llama_cpp.llama_sampler_init_min_p(p.min_p, p.min_keep),
            "xtc": lambda p, s: llama_cpp.llama_sampler_init_xtc(p.xtc_probability, p.xtc_threshold, p.min_keep, s),
            "temperature": lambda p, _: llama_cpp.llama_sampler_init_temp_ext(
                p.temperature, p.dynatemp_range, p.dynatemp_exponent
            ),
            "infill": lambda _p, _s: llama_cpp.llama_sampler_init_infill(self._model.vocabulary.pointer),
        }

    def greedy(self, params: SamplingParams) -> Chain:
        """Create a chain that takes the largest logit after the penalties."""
        chain = self._empty()
        for name in _active(params):
            if name in ("penalties", "dry"):
                chain.add(self._makers[name](params, 0))
        chain.add(llama_cpp.llama_sampler_init_greedy())
        return chain

    def sampling(self, params: SamplingParams, seed: int) -> Chain:
        """Create a chain that draws at random. Resolve the windows of `params` first; `seed` is in 0..2^32-1."""
        chain = self._empty()
        if params.mirostat:
            chain.add(llama_cpp.llama_sampler_init_temp(params.temperature))
            chain.add(self._mirostat(params, seed))
            return chain
        for name in _active(params):
            if name == "smoothing":
                chain.add_own(smoothing(params.smoothing_factor, params.smoothing_curve))
            elif name == "top_a":
                chain.add_own(top_a(params.top_a, params.min_keep))
            else:
                chain.add(self._makers[name](params, seed))
        if params.adaptive_target >= 0.0:
            last = llama_cpp.llama_sampler_init_adaptive_p(params.adaptive_target, params.adaptive_decay, seed)
        else:
            last = llama_cpp.llama_sampler_init_dist(seed)
        chain.add(last)
        return chain

    def close(self) -> None:
        while self._dry:
            llama_cpp.llama_sampler_free(self._dry.popitem()[1])

    def _empty(self) -> Chain:
        pointer = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if not pointer:
            raise EngineFailed("llama.cpp could not create a sampler chain.")
        return Chain(pointer)

    def _penalties(self, params: SamplingParams, _seed: int) -> _Sampler | None:
        return llama_cpp.llama_sampler_init_penalties(
            self._model.n_vocab,
            params.repeat_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )

    def _mirostat(self, params: SamplingParams, seed: int) -> _Sampler | None:
        if params.mirostat == 1:
            # The Zipf exponent is estimated from 100 tokens, as in the paper (its m) and in llama-server.
            return llama_cpp.llama_sampler_init_mirostat(
                self._model.n_vocab, seed, params.mirostat_tau, params.mirostat_eta, 100
            )
        return llama_cpp.llama_sampler_init_mirostat_v2(seed, params.mirostat_tau, params.mirostat_eta)

    def _dry_clone(self, params: SamplingParams, _seed: int) -> _Sampler | None:
        key = (
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            params.dry_penalty_last_n,
            params.dry_sequence_breakers,
        )
        prototype = self._dry.pop(key, None)
        if prototype is None:
            prototype = self._dry_new(key)
        self._dry[key] = prototype
        if len(self._dry) > _MAX_DRY_PROTOTYPES:
            llama_cpp.llama_sampler_free(self._dry.popitem(last=False)[1])
        return llama_cpp.llama_sampler_clone(prototype)

    def _dry_new(self, key: _DryKey) -> _Sampler:
        multiplier, base, allowed_length, last_n, breakers = key
        if not (math.isfinite(multiplier) and math.isfinite(base)):
            raise EngineFailed("dry_multiplier and dry_base must be finite.")
        texts = (ctypes.c_char_p * len(breakers))(*(breaker.encode("utf-8") for breaker in breakers))
        sampler = llama_cpp.llama_sampler_init_dry(
            self._model.vocabulary.pointer, multiplier, base, allowed_length, last_n, texts, len(breakers)
        )
        if not sampler:
            raise EngineFailed("llama.cpp could not create the DRY sampler.")
        return sampler
