"""What llama-server's answers report besides the text: the settings of the generation, and its times."""

from __future__ import annotations

import math
import time
from typing import Any

from worker_gguf.engine.request import SamplingParams
from worker_gguf.generation.progress import Progress
from worker_gguf.protocol.calls import Options

__all__ = ["generation_settings", "sampling_settings", "timings"]

# llama-server's value for a random seed.
_RANDOM_SEED = 2**32 - 1


def sampling_settings(sampling: SamplingParams, max_tokens: int | None) -> dict[str, Any]:
    """Return the settings of drawing, under llama-server's names."""
    n_predict = -1 if max_tokens is None else max_tokens
    return {
        "seed": _RANDOM_SEED if sampling.seed is None else sampling.seed,
        "temperature": sampling.temperature,
        "dynatemp_range": sampling.dynatemp_range,
        "dynatemp_exponent": sampling.dynatemp_exponent,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "top_n_sigma": sampling.top_n_sigma,
        "xtc_probability": sampling.xtc_probability,
        "xtc_threshold": sampling.xtc_threshold,
        "typical_p": sampling.typical_p,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "dry_multiplier": sampling.dry_multiplier,
        "dry_base": sampling.dry_base,
        "dry_allowed_length": sampling.dry_allowed_length,
        "dry_penalty_last_n": sampling.dry_penalty_last_n,
        "mirostat": sampling.mirostat,
        "mirostat_tau": sampling.mirostat_tau,
        "mirostat_eta": sampling.mirostat_eta,
        "adaptive_target": sampling.adaptive_target,
        "adaptive_decay": sampling.adaptive_decay,
        "smoothing_factor": sampling.smoothing_factor,
        "smoothing_curve": sampling.smoothing_curve,
        "top_a": sampling.top_a,
        "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
        "max_tokens": n_predict,
        "n_predict": n_predict,
        "n_keep": 0,
        "n_discard": 0,
        "ignore_eos": sampling.ignore_eos,
        "min_keep": sampling.min_keep,
        "samplers": list(sampling.samplers),
        "post_sampling_probs": False,
    }


def generation_settings(options: Options, *, has_timings: bool) -> dict[str, Any]:
    """Return the settings of one answer. A bias of minus infinity is null, as llama-server writes it."""
    constraint = options.constraint
    return sampling_settings(options.sampling, options.max_tokens) | {
        "dry_sequence_breakers": list(options.sampling.dry_sequence_breakers),
        "stop": list(options.stop),
        "stream": options.stream,
        "logit_bias": [
            {"token": token, "bias": bias if math.isfinite(bias) else None}
            for token, bias in options.sampling.logit_bias
        ],
        "n_probs": options.top_logprobs or 0,
        "grammar": constraint.grammar if constraint is not None and constraint.kind != "json_schema" else "",
        "timings_per_token": has_timings,
        "lora": [{"id": number, "scale": scale} for number, scale in options.adapters],
    }


def timings(progress: Progress, n_generated: int) -> dict[str, Any]:
    """Return the times of an answer. What was computed in no time that can be measured has the rate 0."""
    now_s = time.monotonic() if progress.ended_s is None else progress.ended_s
    begun_s = progress.submitted_s if progress.admitted_s is None else progress.admitted_s
    first_s = now_s if progress.first_token_s is None else progress.first_token_s
    n_computed = progress.prompt_tokens - progress.cached_tokens
    return {
        "cache_n": progress.cached_tokens,
        **_rate("prompt", n_computed, first_s - begun_s),
        **_rate("predicted", n_generated, now_s - first_s),
    }


def _rate(what: str, n: int, seconds: float) -> dict[str, Any]:
    seconds = max(0.0, seconds)
    return {
        f"{what}_n": n,
        f"{what}_ms": round(seconds * 1000, 3),
        f"{what}_per_token_ms": round(seconds * 1000 / n, 3) if n else 0.0,
        f"{what}_per_second": round(n / seconds, 3) if seconds else 0.0,
    }
