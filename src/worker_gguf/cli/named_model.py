"""The model of a command: the one on its command line, or else the one in the environment."""

from __future__ import annotations

from worker_gguf import environment
from worker_gguf.errors import SettingsError
from worker_gguf.settings import Settings

__all__ = ["settings_for", "settings_for_one"]

_NAMES_A_MODEL = ("model", "models", "model_repository_id", "model_filename")


def settings_for(model: str | None, **overrides: object) -> Settings:
    """Return the settings. A named model replaces all variables that name one."""
    given = environment.given()
    if model is not None:
        given = {name: text for name, text in given.items() if name not in _NAMES_A_MODEL}
    return Settings.load(given, model=model, **overrides)


def settings_for_one(model: str | None, **overrides: object) -> Settings:
    """Return the settings for a command about a single model. Raises SettingsError if MODELS is set."""
    settings = settings_for(model, **overrides)
    if settings.models is not None:
        raise SettingsError("This command is about one model, and MODELS lists several: name one of them.")
    return settings
