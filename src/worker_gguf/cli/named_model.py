"""Which model a command is about: the one that is named on its line, else what the environment says."""

from __future__ import annotations

from worker_gguf import environment
from worker_gguf.settings import Settings

__all__ = ["settings_for"]

_NAMES_A_MODEL = ("model", "models", "model_repository_id", "model_filename")


def settings_for(model: str | None) -> Settings:
    """The settings; a model that is named takes the place of every variable that names one."""
    given = environment.given()
    if model is not None:
        given = {name: text for name, text in given.items() if name not in _NAMES_A_MODEL}
    return Settings.load(given, model=model)
