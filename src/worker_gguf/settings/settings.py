"""The class Settings, which has all settings. It is frozen and read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, ValidationError, model_validator

from worker_gguf import environment
from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import SettingsError
from worker_gguf.settings.adapters import AdapterEntry, read_adapters
from worker_gguf.settings.fields import Engine, Fleet, Limits, Memory, Model, Sampling, Server
from worker_gguf.settings.text import choices, expected, is_secret
from worker_gguf.store import places
from worker_gguf.store.places import RUNPOD_VOLUME
from worker_gguf.store.ref import ModelRef

__all__ = ["RUNPOD_VOLUME", "Settings"]


class Settings(Limits, Server, Sampling, Engine, Memory, Fleet, Model):
    """All settings. Each field is an environment variable with an upper-case name. None means: planned at the start.

    Pydantic reads the base classes from the last to the first. Limits is the first base, because its defaults depend on
    the fields of the platform.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
        defer_build=False,
    )

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **overrides: object) -> Self:
        """Read the environment, or `environ` instead. Raises a SettingsError with a sentence for each bad value.

        `overrides` are fields by name and have priority; those that are None are ignored. An empty variable counts as
        unset, and so does `auto` if unset means planned.
        """
        variables = environment.given(environ)
        names = (name for name in cls.model_fields if name in variables)
        values: dict[str, object] = {name: _plain(name, variables[name]) for name in names}
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls._valid(values)

    def changed(self, unset: Iterable[str], changes: Mapping[str, object]) -> Self:
        """Return these settings with fields unset and changed. Raises SettingsError.

        The new values are texts as in the environment, or values of the field.
        """
        values = {name: getattr(self, name) for name in self.model_fields_set.difference(unset)}
        values |= {name: _plain(name, value) if isinstance(value, str) else value for name, value in changes.items()}
        return self._valid(values)

    @classmethod
    def _valid(cls, values: Mapping[str, object]) -> Self:
        """Validate the values that are not None. Raises a SettingsError with a sentence for each bad value."""
        try:
            return cls.model_validate({name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise SettingsError("\n".join(_sentences(error))) from None

    @property
    def on_runpod(self) -> bool:
        """True if RunPod started this process, as a Serverless worker or as a Pod."""
        return bool(self.runpod_pod_id or self.runpod_endpoint_id or self.runpod_webhook_get_job)

    @property
    def behind_platform_keys(self) -> bool:
        """True if RunPod checks API keys before it forwards a request. It does for Serverless, but not for Pods."""
        return bool(self.runpod_endpoint_id or self.runpod_webhook_get_job)

    @property
    def resolved_mode(self) -> Literal["queue", "http"]:
        if self.mode == "auto":
            return "queue" if self.runpod_webhook_get_job else "http"
        return self.mode

    @property
    def linger_s(self) -> float:
        """DRAIN_GRACE_S, limited to half of DRAIN_TIMEOUT_S, so that late requests have time to finish."""
        return min(self.drain_grace_s, self.drain_timeout_s / 2)

    @property
    def health_port(self) -> int:
        return self.port_health or self.port

    @property
    def model_reference(self) -> str:
        """MODEL, or MODEL_REPOSITORY_ID and MODEL_FILENAME as one reference. Raises ModelNotFound if malformed."""
        if self.model_repository_id and self.model_filename:
            return str(ModelRef.from_pair(self.model_repository_id, self.model_filename))
        return self.model

    @property
    def adapters(self) -> tuple[AdapterEntry, ...]:
        """The adapters of LORA, in its order."""
        return read_adapters(self.lora)

    @property
    def names_projector(self) -> bool:
        """True if MMPROJ names a projector, without which the model is not served."""
        return self.mmproj not in ("auto", "none")

    def cache_dir(self, volume: Path = RUNPOD_VOLUME) -> Path:
        """Return the cache folder for downloads: MODEL_CACHE_DIR, or on the network volume, or huggingface_hub's."""
        if self.model_cache_dir:
            return self.model_cache_dir.expanduser()
        on_volume = places.volume_cache_dir(volume)
        if volume.is_dir() and _is_writable(on_volume):
            return on_volume
        return self._library_cache_dir()

    def cache_dirs(self, volume: Path = RUNPOD_VOLUME) -> list[Path]:
        """Return the cache folders to search, in order. RunPod's cached models are on the volume."""
        return places.cache_dirs(self.model_cache_dir, self._library_cache_dir(), volume)

    def _library_cache_dir(self) -> Path:
        return places.library_cache_dir(self.hf_hub_cache, self.hf_home)

    @property
    def model_cache_max_bytes(self) -> int | None:
        return int(self.model_cache_max_gb * 2**30) if self.model_cache_max_gb else None

    def sampling_defaults(self) -> SamplingParams:
        """Return the sampling parameters of a request without any."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in SamplingParams.__struct_fields__ if hasattr(self, name)
        }
        return SamplingParams(**values | {"seed": None if self.seed == -1 else self.seed})

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """Raise ValueError if valid settings contradict each other."""
        if bool(self.model_repository_id) != bool(self.model_filename):
            raise ValueError("MODEL_REPOSITORY_ID and MODEL_FILENAME need each other: set both, or MODEL instead")
        if self.model_repository_id and "model" in self.model_fields_set:
            raise ValueError("MODEL and MODEL_REPOSITORY_ID both name a model: set only one of them")
        names_one = {"model", "model_repository_id", "model_alias"} & self.model_fields_set
        if self.models is not None and names_one:
            raise ValueError(
                f"{' and '.join(sorted(map(str.upper, names_one)))} and MODELS both set the served model: set only "
                "MODELS, whose entries have aliases and whose first entry answers requests without a model name"
            )
        for what, is_set, instead in (
            ("DRAFT_MODEL guesses for", self.draft_model, "unset one of them"),
            ("LORA has adapters of", self.lora, "give each entry its own `lora`"),
            ("MMPROJ is the projector of", self.names_projector, "give each entry its own `mmproj`"),
        ):
            if is_set and self.models is not None:
                raise ValueError(f"{what} a single model, and MODELS lists several: {instead}")
        read_adapters(self.lora)
        if self.draft_model and self.speculation != "auto":
            raise ValueError(
                f"DRAFT_MODEL cannot be used with SPECULATION={self.speculation}, because both say what guesses: unset "
                "one of them"
            )
        if self.mode == "queue" and not self.runpod_webhook_get_job:
            raise ValueError(
                "MODE=queue takes jobs from RunPod, but RUNPOD_WEBHOOK_GET_JOB, which has its URL, is not set. "
                "Use MODE=http here; `make demo` runs a job with a local emulator of the platform"
            )
        if self.n_cells and self.kv_unified is False:
            raise ValueError("N_CELLS needs a KV memory that requests share: set KV_UNIFIED=true, or unset one of them")
        if self.n_batch and self.n_ubatch and self.n_ubatch > self.n_batch:
            raise ValueError(f"N_UBATCH={self.n_ubatch} exceeds N_BATCH={self.n_batch}: lower it, or raise N_BATCH")
        if self.health_check_path == "/metrics" or self.health_check_path.startswith("/v1"):
            raise ValueError(f"HEALTH_CHECK_PATH={self.health_check_path} is already used: choose another path")
        if self.type_v and self.type_v.startswith(("q", "iq")) and self.flash_attn == "off":
            raise ValueError(f"TYPE_V={self.type_v} needs flash attention: set FLASH_ATTN=auto, or TYPE_V=f16")
        return self


def _is_writable(folder: Path) -> bool:
    """Return whether a folder can be written or created."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(nearest, os.W_OK)


def _plain(name: str, text: str) -> str | None:
    """Return choices in lower case, and None for `auto` if unset means planned."""
    field = Settings.model_fields[name]
    if field.default is None and text.lower() == "auto":
        return None
    return text.lower() if choices(field) else text


def _sentences(error: ValidationError) -> list[str]:
    """Return one sentence for each bad variable: its name, its value, the expected form."""
    sentences: dict[str, str] = {}
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        name = str(problem["loc"][0]) if problem["loc"] else ""
        field = Settings.model_fields.get(name)
        if not name:
            sentences[message] = f"{message}."
        elif field is None:
            sentences[name] = f"{name.upper()} is not a setting; docs/settings.md lists them."
        elif problem["type"] != "default_factory_not_called":  # this error only follows from another one
            value = "(hidden)" if is_secret(field) else repr(problem["input"])
            wanted = message if problem["type"] == "value_error" else f"expected {expected(field)}"
            sentences.setdefault(name, f"{name.upper()}={value} is not valid: {wanted}.")
    return list(sentences.values())
