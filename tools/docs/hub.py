"""The files of RunPod's Hub and its test runner, made from the settings: .runpod/hub.json, .runpod/tests.json,
.github/tests.json. `make docs` writes them.

The protocol is docs.runpod.io/hub/publishing-guide and github.com/runpod/test-runner.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from worker_gguf.embedded import published_prompts
from worker_gguf.settings.fields import Engine, Fleet, Limits, Memory, Model, Sampling, Server
from worker_gguf.settings.text import choices, default_text, type_text

__all__ = ["DEFAULT_MODEL", "LEFT_OUT", "hub_file", "hub_tests", "runner_tests"]

DEFAULT_MODEL = "DavidAU/Llama-3.2-8X3B-MOE-Dark-Champion-Instruct-uncensored-abliterated-18.4B-GGUF"
"""The image's; test_docs_hub.py compares it with the Dockerfile."""

# The image's wheels are for CUDA 11.8, which knows cards up to Ada: neither Hopper (HOPPER_141, and the H100s of
# ADA_80_PRO) nor Blackwell. A driver of any later CUDA runs it.
_GPU_POOLS = "ADA_24,AMPERE_24,AMPERE_48,ADA_48_PRO,AMPERE_80,AMPERE_16"
_CUDA_VERSIONS = ("11.8", "12.0", "12.1", "12.2", "12.3", "12.4", "12.5", "12.6", "12.7", "12.8", "12.9", "13.0")
_CONTAINER_DISK_GB = 60
_TEST_GPU = "NVIDIA GeForce RTX 4090"
_TEST_TIMEOUT_MS = 120_000

_GROUPS = (Model, Fleet, Memory, Engine, Limits, Sampling, Server)
_PLAIN = ("MODEL", "HF_TOKEN", "N_CTX", "N_PARALLEL")
"""Shown at once; all others are under "advanced"."""

# Not on the Hub's form, whose fields become variables of a worker, of which RunPod takes 50.
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("HOST", "PORT", "PORT_HEALTH", "MODE", "CONCURRENCY"), "the platform's or the image's own"),
    **dict.fromkeys(("API_KEYS", "ALLOW_UNAUTHENTICATED"), "RunPod checks the keys of an endpoint"),
    **dict.fromkeys(("MODEL_BAKED_DIR", "MODEL_CACHE_DIR", "LOG_FORMAT"), "the image and RunPod settle it"),
    **dict.fromkeys(("MODEL_REPOSITORY_ID", "MODEL_FILENAME"), "the older pair"),
    **dict.fromkeys(("N_CELLS", "N_THREADS", "N_THREADS_BATCH", "PREFETCH", "PREFETCH_READERS"), "planned"),
    **dict.fromkeys(
        ("ROPE_FREQ_BASE", "ROPE_FREQ_SCALE", "IGNORE_EOS", "MIN_KEEP", "SAMPLERS", "SPM_INFILL"), "rarely set"
    ),
    **dict.fromkeys(("DYNATEMP_RANGE", "DYNATEMP_EXPONENT", "TYPICAL_P", "TOP_N_SIGMA"), "a request can set it"),
    **dict.fromkeys(("XTC_THRESHOLD", "REPEAT_LAST_N", "PRESENCE_PENALTY"), "a request can set it"),
    **dict.fromkeys(("FREQUENCY_PENALTY", "DRY_BASE", "DRY_ALLOWED_LENGTH"), "a request can set it"),
    **dict.fromkeys(("DRY_PENALTY_LAST_N", "DRY_SEQUENCE_BREAKERS", "MIROSTAT"), "a request can set it"),
    **dict.fromkeys(("MIROSTAT_TAU", "MIROSTAT_ETA", "ADAPTIVE_TARGET"), "a request can set it"),
    **dict.fromkeys(("ADAPTIVE_DECAY", "SEED"), "a request can set it"),
    "POOLING": "the model's file says it",
    **dict.fromkeys(("MAIN_GPU", "SPLIT_MODE", "TENSOR_SPLIT"), "the form asks for one GPU"),
    "MMPROJ": "found beside the model",
    **dict.fromkeys(("MAX_IMAGES", "MAX_IMAGE_MB", "MAX_IMAGE_MPIXELS"), "rarely set"),
    "IMAGE_DOMAINS": "for images by URL",
    "BATCH_PRIVATE_URLS": "an endpoint's URLs are public",
    **dict.fromkeys(("MODELS", "MODELS_MAX", "MODELS_PRELOAD"), "a form is for one model"),
    **dict.fromkeys(("MODEL_MIN_RESIDENCE_S", "MODEL_TURN_S"), "a form is for one model"),
    **dict.fromkeys(("HEALTH_CHECK_PATH", "SSE_PING_S", "DRAIN_GRACE_S", "QUEUE_TIMEOUT_S"), "for a load balancer"),
}

_TYPES = {"int": "number", "float": "number", "bool": "boolean"}
_FIXED = {"RUNPOD_DEBUG_LEVEL": "INFO", "RUNPOD_INIT_TIMEOUT": "1800"}

_PRESETS: tuple[tuple[str, dict[str, str | int]], ...] = (
    (
        "Uncensored role-play: Llama 3.2 8X3B Dark Champion 18.4B, Q4_K_M (24 GB)",
        {"MODEL": f"{DEFAULT_MODEL}:Q4_K_M", "N_CTX": 16384, "N_PARALLEL": 4},
    ),
    (
        "General chat: Llama 3.1 8B Instruct, Q4_K_M (16 GB)",
        {"MODEL": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "N_CTX": 16384, "N_PARALLEL": 4},
    ),
    (
        "Coding: Qwen2.5 Coder 32B Instruct, Q4_K_M (48 GB)",
        {"MODEL": "bartowski/Qwen2.5-Coder-32B-Instruct-GGUF:Q4_K_M", "N_CTX": 32768, "N_PARALLEL": 2},
    ),
    (
        "Stories and role-play: Cydonia 24B v2, Q4_K_M (24 GB)",
        {"MODEL": "bartowski/TheDrummer_Cydonia-24B-v2-GGUF:Q4_K_M", "N_CTX": 16384, "N_PARALLEL": 2},
    ),
)


def hub_file() -> str:
    """.runpod/hub.json"""
    fields = {name.upper(): group.model_fields[name] for group in _GROUPS for name in group.__annotations__}
    shown = [_input(name, field) for name, field in fields.items() if name not in LEFT_OUT]
    return _json(
        {
            "title": "worker-gguf",
            "description": "Any GGUF model behind an OpenAI-compatible API: llama.cpp's samplers, short cold starts",
            "type": "serverless",
            "category": "language",
            "config": {
                "runsOn": "GPU",
                "containerDiskInGb": _CONTAINER_DISK_GB,
                "gpuCount": 1,
                "gpuIds": _GPU_POOLS,
                "allowedCudaVersions": list(_CUDA_VERSIONS),
                "presets": [{"name": name, "defaults": defaults} for name, defaults in _PRESETS],
                "env": [*shown, *({"key": name, "value": value} for name, value in _FIXED.items())],
            },
        }
    )


def hub_tests() -> str:
    """.runpod/tests.json: run by the Hub before a release is listed, on the model that needs no download."""
    tests = [{"name": name, "input": given, "timeout": _TEST_TIMEOUT_MS} for name, given in _jobs().items()]
    config = {
        "gpuTypeId": _TEST_GPU,
        "gpuCount": 1,
        "env": [{"key": name, "value": value} for name, value in (_FIXED | {"MODEL": "embedded"}).items()],
        "allowedCudaVersions": list(_CUDA_VERSIONS),
    }
    return _json({"tests": tests, "config": config})


def runner_tests() -> str:
    """.github/tests.json: run by RunPod's test runner against an image that was just pushed."""
    hardware = {"endpointConfig": {"gpuIds": _GPU_POOLS, "name": "worker-gguf test"}}
    return _json([{"hardwareConfig": hardware, "input": given} for given in _jobs().values()])


def _jobs() -> dict[str, dict[str, Any]]:
    prompt = published_prompts()[0]
    body = {"messages": list(prompt.messages), "max_tokens": prompt.max_tokens, "temperature": 0}
    return {
        "chat": {"openai_route": "/v1/chat/completions", "openai_input": body},
        "streamed_chat": {"openai_route": "/v1/chat/completions", "openai_input": {**body, "stream": True}},
        "models": {"openai_route": "/v1/models"},
        "plain_prompt": {"prompt": "Once upon a time", "sampling_params": {"max_tokens": 16, "temperature": 0}},
    }


def _input(name: str, field: FieldInfo) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": name,  # the name in docs/settings.md and in the log
        "type": _TYPES.get(type_text(field), "string"),
        "description": (field.description or "").replace("`", ""),
        "required": name == "MODEL",
        "advanced": name not in _PLAIN,
    }
    if name == "MODEL":
        said["default"] = DEFAULT_MODEL
    elif said["type"] == "boolean" and field.default is None:  # a third state: the worker decides
        said |= {"type": "string", "options": _options(("auto", "true", "false")), "default": "auto"}
    elif said["type"] == "boolean":
        said |= {"trueValue": "true", "falseValue": "false", "default": field.default}
    elif words := choices(field):
        said |= {"options": _options(words if field.default else ("auto", *words)), "default": field.default or "auto"}
    elif said["type"] == "number":
        said |= _bounds(field) | ({"default": field.default} if isinstance(field.default, int | float) else {})
    elif default := default_text(field):
        said["default"] = default
    return {"key": name, "input": said}


def _options(words: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"label": word, "value": word} for word in words]


def _bounds(field: FieldInfo) -> dict[str, Any]:
    """Return the bounds that the form supports, which are inclusive only."""
    extras = [extra for kind in get_args(field.annotation) for extra in getattr(kind, "metadata", ())]
    bounds: dict[str, Any] = {}
    for bound in (*field.metadata, *extras):
        if isinstance(bound, Ge):
            bounds["min"] = bound.ge
        elif isinstance(bound, Le):
            bounds["max"] = bound.le
    return bounds


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
