"""The settings by group, with their names, types, defaults, bounds and descriptions."""

# Annotations are values here: Pydantic would compile each one that is a text, which adds milliseconds to the start.

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator

from worker_gguf.settings.domains import read_domains
from worker_gguf.settings.group import Group
from worker_gguf.settings.origins import read_origins
from worker_gguf.settings.sampling import Sampling

__all__ = ["GROUPS", "Engine", "Fleet", "Limits", "Memory", "Model", "Platform", "Sampling", "Server"]

CacheType = Literal["f16", "f32", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
Port = Annotated[int, Field(ge=1, le=65535)]


class Model(Group):
    """The served model and its place."""

    model: str = Field("embedded", description="`embedded`, a path to a .gguf file, or `org/repo[:QUANT]` on the Hub")
    model_alias: str | None = Field(
        None, description="Name for clients; planned: the name of the repository, or of the file without its ending"
    )
    draft_model: str | None = Field(
        None, description="Small model of the same family that guesses tokens for MODEL, in the same forms"
    )
    lora: tuple[str, ...] = Field(
        (),
        description="LoRA adapters for MODEL, separated by commas: `[name=]reference[:scale]` ([forms](adapters.md))",
        json_schema_extra={"expected": "adapters separated by commas: `[name=]reference[:scale]`"},
    )
    mmproj: str = Field(
        "auto",
        description="Projector with which MODEL sees images, in the same forms; auto: the one beside each model; none",
    )
    model_repository_id: str | None = Field(None, description="Older pair: the repository, `org/repo`")
    model_filename: str | None = Field(None, description="Older pair: the file in MODEL_REPOSITORY_ID")
    model_cache_dir: Path | None = Field(
        None, description="Folder of the Hub's cache; planned: on the network volume if there is one, else the default"
    )
    model_cache_max_gb: float | None = Field(
        None, gt=0, description="GiB of models kept in that folder; the least recently used go first; unset keeps all"
    )
    model_baked_dir: Path = Field(
        Path("/models"), description="Folder of the image with models: `org/repo/file.gguf`, or a Hub cache"
    )
    verify_model: Literal["size", "sha256"] = Field(
        "size",
        description="Check of the models at the start: the size of each file, or its SHA-256, for which it is read",
    )
    hf_token: SecretStr | None = Field(None, description="Token for gated or private repositories")
    chat_template: str | None = Field(
        None, description="A Jinja chat template or the path of one (.jinja); planned: that of the model"
    )
    spm_infill: bool = Field(
        False, description="Put the text after a gap first in the prompts of `/infill`, for models that were trained so"
    )
    tokenizer: str | None = Field(
        None,
        description="Original repository, `org/repo[@revision]`, or a folder: its chat template and special tokens",
    )

    @field_validator("lora", mode="before")
    @classmethod
    def split_adapters(cls, value: Any) -> Any:
        return [part for part in re.split(r"[,\n]", value) if part.strip()] if isinstance(value, str) else value


class Memory(Group):
    """Context, sequences and the placement of layers. Unset values are planned from the model and the machine."""

    n_ctx: int | None = Field(
        None,
        ge=32,
        le=2**24,
        description="Context of one request, in tokens; planned: as long as memory and model allow",
    )
    n_parallel: int | None = Field(
        None, ge=1, le=256, description="Requests that run at the same time; planned: 8 with a GPU, 4 without"
    )
    kv_unified: bool | None = Field(None, description="One KV memory shared by all requests, or a part for each")
    n_cells: int | None = Field(
        None, ge=32, description="KV memory in tokens for all requests; less than N_CTX x N_PARALLEL overcommits it"
    )
    n_gpu_layers: int | None = Field(None, ge=-1, description="Layers on the GPU; -1 is all of them")
    n_cpu_moe: int | None = Field(None, ge=0, description="Layers, from the first, whose experts stay in main memory")
    type_k: CacheType | None = Field(None, description="Type of the K cache; planned: f16, or q8_0 if memory is short")
    type_v: CacheType | None = Field(None, description="Type of the V cache; a quantised one needs FLASH_ATTN")
    cache_ram: int | None = Field(
        None,
        ge=0,
        description="Main memory for conversations that lost their slot, in MiB; planned: a quarter of what is left",
    )
    swa_full: bool = Field(
        True,
        description="Keep all tokens of layers with a sliding window; false saves memory and reuses fewer prefixes",
    )
    load_mode: Literal["auto", "mmap", "none", "mlock", "direct"] = Field(
        "auto", description="How the file is loaded into memory"
    )
    prefetch: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Read the file into the page cache ahead of the load. auto: as much as memory holds; on: all of it",
    )
    prefetch_readers: int | None = Field(
        None, ge=1, le=256, description="Parallel readers of the prefetch; unset: as many as add throughput"
    )
    split_mode: Literal["none", "layer", "row"] = Field("layer", description="How several GPUs share the model")
    tensor_split: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        description="Share of each GPU, for example `3,1`",
        json_schema_extra={"expected": "numbers >= 0 separated by commas"},
    )
    main_gpu: int = Field(0, ge=0, description="The GPU used when SPLIT_MODE=none")

    @field_validator("tensor_split", mode="before")
    @classmethod
    def split_commas(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Engine(Group):
    """How llama.cpp computes."""

    n_batch: int | None = Field(None, ge=1, le=65536, description="Tokens passed to llama.cpp in one step")
    n_ubatch: int | None = Field(None, ge=1, le=65536, description="Tokens computed at the same time, at most N_BATCH")
    n_threads: int | None = Field(None, ge=1, le=1024, description="Threads for generation")
    n_threads_batch: int | None = Field(None, ge=1, le=1024, description="Threads for prompts")
    flash_attn: Literal["auto", "on", "off"] = Field(
        "auto", description="Flash attention; auto: not where it is slower on a processor (docs/memory.md)"
    )
    pooling: Literal["auto", "none", "mean", "cls", "last", "rank"] = Field(
        "auto",
        description="How the model makes one vector of a text, or ranks; auto: as its file says; none: it generates",
    )
    speculation: Literal["auto", "mtp", "off"] = Field(
        "auto", description="Guess tokens as long as that is faster; mtp: also with the model's own MTP layer"
    )
    repack: Literal["auto", "on", "off"] = Field(
        "auto", description="Rearrange weights for the processor at the start; auto: not on x86 (docs/cold-start.md)"
    )
    rope_freq_base: float | None = Field(None, gt=0, description="RoPE base frequency; planned: that of the model")
    rope_freq_scale: float | None = Field(None, gt=0, description="RoPE frequency scale; planned: that of the model")


class Fleet(Group):
    """Several models in one worker, loaded on demand; see [models](models.md)."""

    models: str | None = Field(
        None,
        description="Several models instead of MODEL: `alias=reference, …`, a list as JSON or YAML, or a YAML file",
    )
    models_max: int | None = Field(None, ge=1, le=64, description="Most models in memory; unset: as many as fit")
    models_preload: int = Field(1, ge=1, le=64, description="Models loaded at the start, from the first, if they fit")
    model_min_residence_s: float = Field(
        3.0, ge=0, le=3600, description="Minimum seconds that a loaded model stays in memory"
    )
    model_turn_s: float = Field(
        10.0, ge=0, le=86400, description="Seconds after its load that a busy model takes requests while others wait"
    )


class Limits(Group):
    """Limits on requests."""

    max_queue: int = Field(128, ge=0, le=100_000, description="Requests that may wait; others are answered with 429")
    max_tokens: int | None = Field(
        None, ge=1, description="Default length of an answer, in tokens; planned: to the end of the context"
    )
    watchdog_s: float = Field(
        120.0, ge=0, description="Seconds without progress of running requests until the engine restarts; 0 is off"
    )
    engine_deaths_within_s: float = Field(
        60.0,
        ge=0,
        description="The worker ends when its engine process dies three times within so many seconds; 0 is never",
    )
    queue_timeout_s: float | None = Field(
        default_factory=lambda values: 60.0 if behind_balancer(values) else None,
        gt=0,
        description="Seconds that a request may wait for a slot until it is answered with 429",
        json_schema_extra={"default_text": "60 behind RunPod's balancer"},
    )
    request_timeout_s: float | None = Field(
        default_factory=lambda values: 320.0 if behind_balancer(values) else 600.0,
        gt=0,
        description="Seconds that a request may take, including its wait",
        json_schema_extra={"default_text": "600, or 320 behind RunPod's balancer"},
    )
    max_body_mb: int = Field(
        default_factory=lambda values: 28 if behind_balancer(values) else 32,
        ge=1,
        le=1024,
        description="Size limit of a request body, in MiB",
        json_schema_extra={"default_text": "32, or 28 behind RunPod's balancer"},
    )
    max_images: int = Field(20, ge=0, le=1000, description="Images in one request")
    max_image_mb: int = Field(20, ge=1, le=1024, description="Size limit of one image, in MiB")
    max_image_mpixels: int = Field(50, ge=1, le=1000, description="Size limit of one image, in millions of pixels")
    image_domains: tuple[str, ...] = Field(
        (),
        description="Hosts from which images may be fetched by URL, separated by commas; *.host is all below it, * any",
        json_schema_extra={"expected": "hosts separated by commas, or *"},
    )
    batch_private_urls: bool = Field(False, description="Let the URL of a batch job lead to private addresses, too")
    strict_parameters: bool = Field(False, description="Refuse parameters that have no effect here, with 400")

    @field_validator("image_domains", mode="before")
    @classmethod
    def split_domains(cls, value: Any) -> Any:
        return read_domains(value) if isinstance(value, str) else value


class Platform(Group):
    """Set by RunPod and huggingface_hub, not by you."""

    runpod_pod_id: str | None = Field(None, description="The id of the worker on RunPod")
    runpod_endpoint_id: str | None = Field(None, description="The id of the Serverless endpoint")
    runpod_gpu_count: int | None = Field(None, ge=0, description="The number of GPUs of the worker")
    runpod_webhook_get_job: str | None = Field(None, description="The URL that gives jobs; MODE=auto reads it")
    hf_home: Path | None = Field(None, description="The home folder of huggingface_hub")
    hf_hub_cache: Path | None = Field(None, description="The cache folder of huggingface_hub")


def _on_runpod(values: dict[str, Any]) -> bool:
    return any(values.get(name) for name in ("runpod_pod_id", "runpod_endpoint_id", "runpod_webhook_get_job"))


def behind_balancer(values: Mapping[str, Any]) -> bool:
    """Return whether requests come from RunPod's load balancer: there is an endpoint, and no queue is used.

    The load balancer limits a request to 330 s and 30 MB (docs.runpod.io/serverless/load-balancing/overview). The
    worker's own limits are a little lower, so that it can answer with an error message.
    """
    if not values.get("runpod_endpoint_id"):
        return False
    return values.get("mode") == "http" or not values.get("runpod_webhook_get_job")


class Server(Platform):
    """The address, keys and log of the worker."""

    mode: Literal["auto", "queue", "http"] = Field(
        "auto", description="Source of requests; auto: queue if RunPod offers jobs, else http"
    )
    host: str = Field(
        default_factory=lambda values: "0.0.0.0" if _on_runpod(values) else "127.0.0.1",
        description="Address to bind",
        json_schema_extra={"default_text": "127.0.0.1, or 0.0.0.0 on RunPod"},
    )
    port: Port = Field(
        default_factory=lambda values: 80 if _on_runpod(values) else 8000,
        description="Port to bind",
        json_schema_extra={"default_text": "8000, or 80 on RunPod"},
    )
    port_health: Port | None = Field(None, description="Port of /ping; planned: the same as PORT")
    health_check_path: str = Field(
        "/ping",
        pattern=r"^/[A-Za-z0-9/_.~-]*$",
        description="Path for health checks of a load balancer, in addition to /ping",
        json_schema_extra={"expected": "a path such as /ping"},
    )
    sse_ping_s: float = Field(
        15.0, ge=0, description="Seconds without an event in a stream until a comment or a ping is sent; 0 sends none"
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (),
        description="Keys that clients may use, separated by commas",
        json_schema_extra={"expected": "keys separated by commas"},
    )
    allow_unauthenticated: bool = Field(
        False, description="Allow other addresses than loopback without API_KEYS; RunPod Serverless has its own keys"
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Origins whose pages may call the worker from a browser, separated by commas; * is any",
        json_schema_extra={"expected": "origins separated by commas, or *"},
    )
    concurrency: int | None = Field(None, ge=1, le=4096, description="Queue jobs at the same time; planned: N_PARALLEL")
    drain_timeout_s: float = Field(30.0, ge=0, description="Seconds for running requests to finish after SIGTERM")
    drain_grace_s: float = Field(
        default_factory=lambda values: 5.0 if behind_balancer(values) else 0.0,
        ge=0,
        description="The first seconds of the drain, in which HTTP requests are still accepted; at most half of it",
        json_schema_extra={"default_text": "0, or 5 behind RunPod's balancer"},
    )
    fitness_checks: Literal["enforce", "report"] = Field(
        "enforce", description="Whether a failed check at the start ends the worker or is only reported"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: JSON on RunPod, or if stderr is not a terminal"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def split_keys(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        keys = [part.strip() for part in value.split(",") if part.strip()]
        if not keys or value.lstrip().startswith("["):
            raise ValueError("expected keys separated by commas, without brackets")
        return keys

    @field_validator("cors_origins", mode="before")
    @classmethod
    def split_origins(cls, value: Any) -> Any:
        return read_origins(value) if isinstance(value, str) else value


GROUPS: tuple[type[Group], ...] = (Model, Fleet, Memory, Engine, Limits, Sampling, Server, Platform)
