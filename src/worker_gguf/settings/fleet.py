"""The settings of several models in one worker. Knows nothing of the environment."""

from __future__ import annotations

from pydantic import Field

from worker_gguf.settings_group import Group

__all__ = ["Fleet"]


class Fleet(Group):
    """Several models in one worker, loaded on demand; [models](models.md) tells how."""

    models: str | None = Field(
        None,
        description="Several models in place of MODEL: `alias=reference, …`, a list as JSON or YAML, or a YAML file",
    )
    models_max: int | None = Field(
        None, ge=1, le=64, description="Models in memory at once at most; planned: as many as fit"
    )
    models_preload: int = Field(1, ge=1, le=64, description="Models loaded at the start, from the first, if they fit")
    model_min_residence_s: float = Field(
        3.0, ge=0, le=3600, description="Seconds that a loaded model stays in memory at least"
    )
    model_turn_s: float = Field(
        10.0, ge=0, le=86400, description="Seconds after its load that a busy model takes requests while others wait"
    )
