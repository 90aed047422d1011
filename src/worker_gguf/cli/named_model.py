"""The settings for commands with a model argument, which has priority over the environment."""

from __future__ import annotations

from worker_gguf import environment
from worker_gguf.errors import SettingsError
from worker_gguf.settings import Settings

__all__ = ["settings_for", "settings_for_one"]

_NAMES_A_MODEL = ("model", "models", "model_repository_id", "model_filename")


def settings_for(model: str | None, **overrides: object) -> Settings:
    """Load the settings. A given model replaces all variables that name a model. Raises SettingsError."""
    variables = environment.given()
    if model is not None:
        variables = {name: text for name, text in variables.items() if name not in _NAMES_A_MODEL}
    return Settings.load(variables, model=model, **overrides)


def settings_for_one(model: str | None, **overrides: object) -> Settings:
    """Load the settings for a command about a single model. Raises SettingsError if MODELS applies."""
    settings = settings_for(model, **overrides)
    if settings.models is not None:
        raise SettingsError("This command is for one model, but MODELS lists several. Name one of them.")
    return settings
