"""The settings of sampling: defaults for requests."""

# Annotations are values here: Pydantic would compile each one that is a text, which adds milliseconds to the start.

import json
import re
from typing import Any

from pydantic import Field, field_validator

from worker_gguf.engine.request import SAMPLERS, SamplingParams
from worker_gguf.settings.group import Group

__all__ = ["Sampling"]

DRAWN = SamplingParams()


class Sampling(Group):
    """Defaults for requests, with the names of llama-server."""

    temperature: float = Field(DRAWN.temperature, ge=0, description="Randomness; 0 is greedy")
    dynatemp_range: float = Field(DRAWN.dynatemp_range, ge=0, description="Dynamic temperature: range, 0 is off")
    dynatemp_exponent: float = Field(DRAWN.dynatemp_exponent, ge=0, description="Dynamic temperature: exponent")
    top_k: int = Field(DRAWN.top_k, ge=-1, description="Keep the k most likely tokens; 0 or -1 is off")
    top_p: float = Field(DRAWN.top_p, ge=0, le=1, description="Keep the most likely tokens up to this mass; 1 is off")
    min_p: float = Field(DRAWN.min_p, ge=0, le=1, description="Drop tokens below this share of the top; 0 is off")
    typical_p: float = Field(DRAWN.typical_p, ge=0, le=1, description="Locally typical mass; 1 is off")
    top_n_sigma: float = Field(DRAWN.top_n_sigma, ge=-1, description="Keep logits within n sigma of the top; -1 is off")
    xtc_probability: float = Field(DRAWN.xtc_probability, ge=0, le=1, description="XTC: probability of use; 0 is off")
    xtc_threshold: float = Field(DRAWN.xtc_threshold, ge=0, le=1, description="XTC: probability threshold")
    repeat_penalty: float = Field(DRAWN.repeat_penalty, gt=0, description="Penalty for repeated tokens; 1 is off")
    repeat_last_n: int = Field(DRAWN.repeat_last_n, ge=-1, description="Recent tokens for penalties; -1 is the context")
    presence_penalty: float = Field(DRAWN.presence_penalty, description="Penalty for tokens that appeared; 0 is off")
    frequency_penalty: float = Field(DRAWN.frequency_penalty, description="Penalty for each appearance; 0 is off")
    dry_multiplier: float = Field(DRAWN.dry_multiplier, ge=0, description="DRY: strength; 0 is off")
    dry_base: float = Field(DRAWN.dry_base, ge=1, description="DRY: growth of the penalty")
    dry_allowed_length: int = Field(DRAWN.dry_allowed_length, ge=0, description="DRY: length without penalty")
    dry_penalty_last_n: int = Field(DRAWN.dry_penalty_last_n, ge=-1, description="DRY: number of recent tokens")
    dry_sequence_breakers: tuple[str, ...] = Field(
        DRAWN.dry_sequence_breakers,
        description="DRY: texts that end a repetition, as a JSON array",
        json_schema_extra={
            "expected": "a JSON array of texts",
            "default_text": json.dumps(DRAWN.dry_sequence_breakers),
        },
    )
    mirostat: int = Field(DRAWN.mirostat, ge=0, le=2, description="Mirostat version; 0 is off")
    mirostat_tau: float = Field(DRAWN.mirostat_tau, ge=0, description="Mirostat: target surprise")
    mirostat_eta: float = Field(DRAWN.mirostat_eta, ge=0, description="Mirostat: learning rate")
    adaptive_target: float = Field(
        DRAWN.adaptive_target, ge=-1, le=1, description="Adaptive-p: target probability; below 0 is off"
    )
    adaptive_decay: float = Field(DRAWN.adaptive_decay, ge=0, le=0.99, description="Adaptive-p: decay of its memory")
    smoothing_factor: float = Field(DRAWN.smoothing_factor, ge=0, description="Quadratic smoothing: strength; 0 is off")
    smoothing_curve: float = Field(DRAWN.smoothing_curve, ge=1, description="Quadratic smoothing: cubic part, 1 is off")
    top_a: float = Field(DRAWN.top_a, ge=0, le=1, description="Drop tokens below this share of the top²; 0 is off")
    no_repeat_ngram_size: int = Field(DRAWN.no_repeat_ngram_size, ge=0, description="Never repeat n tokens; 0 is off")
    min_keep: int = Field(DRAWN.min_keep, ge=0, description="Minimum tokens that every sampler keeps")
    seed: int | None = Field(DRAWN.seed, ge=-1, lt=2**32, description="Seed; unset or -1: random for each request")
    samplers: tuple[str, ...] = Field(
        DRAWN.samplers,
        description="Samplers in order, separated by semicolons",
        json_schema_extra={"expected": "names separated by semicolons"},
    )
    ignore_eos: bool = Field(DRAWN.ignore_eos, description="Continue past the model's end of text")

    @field_validator("dry_sequence_breakers", mode="before")
    @classmethod
    def read_json(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"expected a JSON array of texts ({error})") from None

    @field_validator("samplers", mode="before")
    @classmethod
    def split_semicolons(cls, value: Any) -> Any:
        return [part.strip() for part in re.split("[;,]", value) if part.strip()] if isinstance(value, str) else value

    @field_validator("samplers")
    @classmethod
    def know_samplers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(SAMPLERS)):
            raise ValueError(f"unknown samplers: {', '.join(unknown)}; there are {', '.join(sorted(SAMPLERS))}")
        return value
