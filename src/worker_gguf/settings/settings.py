"""The frozen Settings, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, ValidationError, model_validator

from worker_gguf import environment
from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import SettingsError
from worker_gguf.settings.fields import Engine, Fleet, Limits, Memory, Model, Sampling, Server
from worker_gguf.settings.text import choices, expected, is_secret
from worker_gguf.store import places
from worker_gguf.store.places import RUNPOD_VOLUME
from worker_gguf.store.ref import ModelRef

__all__ = ["RUNPOD_VOLUME", "Settings"]


class Settings(Limits, Server, Sampling, Engine, Memory, Fleet, Model):
    """All settings. Each field is a variable of the environment, in upper case. None means that it is planned at the
    start.

    Pydantic reads the bases from the last to the first. The limits come last, because their defaults depend on the
    platform.
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
        """Read the environment, or `environ` in its place. `overrides` are fields by name and take precedence.

        An override of None has no effect. An empty variable counts as unset, and so does `auto` for settings that are
        planned if they are unset.
        """
        given = environment.given(environ)
        values: dict[str, object] = {name: _plain(name, given[name]) for name in cls.model_fields if name in given}
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls._valid(values)

    def changed(self, unset: Iterable[str], changes: Mapping[str, object]) -> Self:
        """Return the same settings without some and with others, given as in the environment or as values."""
        values = {name: getattr(self, name) for name in self.model_fields_set.difference(unset)}
        values |= {name: _plain(name, value) if isinstance(value, str) else value for name, value in changes.items()}
        return self._valid(values)

    @classmethod
    def _valid(cls, values: Mapping[str, object]) -> Self:
        """Validate values. None means not given. Raises SettingsError with a sentence for each bad value."""
        try:
            return cls.model_validate({name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise SettingsError("\n".join(_sentences(error))) from None

    @property
    def on_runpod(self) -> bool:
        """Whether RunPod started this process, as a Serverless worker or as a Pod."""
        return bool(self.runpod_pod_id or self.runpod_endpoint_id or self.runpod_webhook_get_job)

    @property
    def behind_platform_keys(self) -> bool:
        """Whether RunPod checks API keys before a request gets here. It does for Serverless, not for a Pod."""
        return bool(self.runpod_endpoint_id or self.runpod_webhook_get_job)

    @property
    def resolved_mode(self) -> Literal["queue", "http"]:
        if self.mode == "auto":
            return "queue" if self.runpod_webhook_get_job else "http"
        return self.mode

    @property
    def linger_s(self) -> float:
        """DRAIN_GRACE_S, cut so that half of DRAIN_TIMEOUT_S is left to finish the requests that it lets in."""
        return min(self.drain_grace_s, self.drain_timeout_s / 2)

    @property
    def health_port(self) -> int:
        return self.port_health or self.port

    @property
    def model_reference(self) -> str:
        """MODEL, or the older pair as one reference. Raises ModelNotFound if the pair is not one."""
        if self.model_repository_id and self.model_filename:
            return str(ModelRef.from_pair(self.model_repository_id, self.model_filename))
        return self.model

    def cache_dir(self, volume: Path = RUNPOD_VOLUME) -> Path:
        """The Hub cache that is written: the one of the setting, or on the network volume, or the one of the Hub's
        library.
        """
        if self.model_cache_dir:
            return self.model_cache_dir.expanduser()
        on_volume = places.volume_cache_dir(volume)
        if volume.is_dir() and _is_writable(on_volume):
            return on_volume
        return self._library_cache_dir()

    def cache_dirs(self, volume: Path = RUNPOD_VOLUME) -> list[Path]:
        """The folders in the Hub's layout that are searched, in order. RunPod's cached models are on the volume."""
        return places.cache_dirs(self.model_cache_dir, self._library_cache_dir(), volume)

    def _library_cache_dir(self) -> Path:
        return places.library_cache_dir(self.hf_hub_cache, self.hf_home)

    @property
    def model_cache_max_bytes(self) -> int | None:
        return int(self.model_cache_max_gb * 2**30) if self.model_cache_max_gb else None

    def sampling_defaults(self) -> SamplingParams:
        """Return the sampling parameters of a request that sets none."""
        given: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(SamplingParams) if hasattr(self, field.name)
        }
        return SamplingParams(**given | {"seed": None if self.seed == -1 else self.seed})

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """Refuse combinations of settings that cannot work."""
        if bool(self.model_repository_id) != bool(self.model_filename):
            raise ValueError("MODEL_REPOSITORY_ID and MODEL_FILENAME go together: set both, or MODEL instead")
        if self.model_repository_id and "model" in self.model_fields_set:
            raise ValueError("MODEL and MODEL_REPOSITORY_ID both name a model: set only one of them")
        names_one = {"model", "model_repository_id", "model_alias"} & self.model_fields_set
        if self.models is not None and names_one:
            raise ValueError(
                f"{' and '.join(sorted(map(str.upper, names_one)))} and MODELS both say which model is served: set "
                "only MODELS, whose first entry answers requests that name none and whose entries have aliases"
            )
        if self.mode == "queue" and not self.runpod_webhook_get_job:
            raise ValueError(
                "MODE=queue takes jobs from RunPod, and RUNPOD_WEBHOOK_GET_JOB, which holds its address, is not set. "
                "Use MODE=http here; `make demo` runs a job against a local stand-in for the platform"
            )
        if self.n_cells and self.kv_unified is False:
            raise ValueError("N_CELLS shares one KV memory among requests: set KV_UNIFIED=true, or leave one unset")
        if self.n_batch and self.n_ubatch and self.n_ubatch > self.n_batch:
            raise ValueError(f"N_UBATCH={self.n_ubatch} is over N_BATCH={self.n_batch}: lower it, or raise N_BATCH")
        if self.health_check_path == "/metrics" or self.health_check_path.startswith("/v1"):
            raise ValueError(f"HEALTH_CHECK_PATH={self.health_check_path} is taken: choose another path")
        if self.type_v and self.type_v.startswith(("q", "iq")) and self.flash_attn == "off":
            raise ValueError(f"TYPE_V={self.type_v} needs flash attention: set FLASH_ATTN=auto, or TYPE_V=f16")
        return self


def _is_writable(folder: Path) -> bool:
    """Return whether a folder can be written, or created."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(nearest, os.W_OK)


def _plain(name: str, text: str) -> str | None:
    """Return a choice in lower case. `auto` becomes None for settings that are planned if they are unset."""
    field = Settings.model_fields[name]
    if field.default is None and text.lower() == "auto":
        return None
    return text.lower() if choices(field) else text


def _sentences(error: ValidationError) -> list[str]:
    """Return one sentence for each bad variable: its name, its value, the expected form."""
    sentences: dict[str, str] = {}
    for problem in error.errors():
        said = problem["msg"].removeprefix("Value error, ")
        name = str(problem["loc"][0]) if problem["loc"] else ""
        field = Settings.model_fields.get(name)
        if not name:
            sentences[said] = f"{said}."
        elif field is None:
            sentences[name] = f"{name.upper()} is not a setting; docs/settings.md lists them."
        elif problem["type"] != "default_factory_not_called":  # this error only follows from another one
            value = "(hidden)" if is_secret(field) else repr(problem["input"])
            wanted = said if problem["type"] == "value_error" else f"expected {expected(field)}"
            sentences.setdefault(name, f"{name.upper()}={value} is not valid: {wanted}.")
    return list(sentences.values())
