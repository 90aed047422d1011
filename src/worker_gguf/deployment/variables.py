"""Reads the `env` of deploy.yaml: resolves references to secrets and checks the values with the worker's Settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker_gguf.deployment.document import Document
from worker_gguf.deployment.manifest import EnvValue, Manifest
from worker_gguf.deployment.redactor import Redactor
from worker_gguf.errors import ManifestError, SettingsError
from worker_gguf.settings import Settings
from worker_gguf.settings.text import is_secret
from worker_gguf.settings.typos import meant

__all__ = ["is_shown", "notes_on", "read_env"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FROM_ENVIRONMENT: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FROM_RUNPOD: Final = re.compile(r"\{\{\s*RUNPOD_SECRET_[A-Za-z0-9_]+\s*\}\}")
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
_LIKE_A_SECRET: Final = re.compile(r"(^|_)(KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_MODES: Final = {"queue": "queue", "load_balanced": "http"}
_MOST: Final = 50
"""RunPod's documented limit for Pods. The description of its API has none for Serverless."""


def read_env(document: Document, environ: Mapping[str, str]) -> dict[str, EnvValue]:
    """Return the worker's variables, with MODE and MODEL. Raises ManifestError.

    `environ` has names in lower case (environment.given).
    """
    written, mode = document.values.get("env", {}), document.values.get("mode", "queue")
    if not isinstance(written, dict):
        raise document.error("env", "must be a group of `key: value` lines.")
    env: dict[str, EnvValue] = {}
    for name, value in written.items():
        if not _NAME.fullmatch(name):
            raise document.error(
                f"env.{name}", "is not the name of a variable: only letters, digits and _ are allowed."
            )
        if name.upper() in {known.upper() for known in env}:
            raise document.error(f"env.{name}", "is defined twice: case does not matter. Remove one.")
        env[name] = _value(document, name, value, environ)
    for name, key, text in (("MODEL", "model", document.values.get("model")), ("MODE", "mode", _MODES.get(str(mode)))):
        if duplicate := next((other for other in env if other.upper() == name), None):
            if key == "mode" or text is not None:
                raise document.error(f"env.{duplicate}", f"means the same as the key `{key}`. Remove the line.")
        elif isinstance(text, str):
            env[name] = EnvValue(text.strip(), is_secret=False)
    if len(env) > _MOST:
        raise document.error("env", f"has {len(env)} variables with MODE and MODEL; RunPod accepts {_MOST}.")
    _check(document, env, is_queue=mode == "queue")
    return env


def is_shown(name: str, value: EnvValue | None = None) -> bool:
    """Return whether a variable may be printed: only settings and RunPod's own variables, except secrets."""
    if value is not None and value.is_secret:
        return False
    if (field := Settings.model_fields.get(name.lower())) is not None:
        return not is_secret(field)
    return _is_platforms(name) and not _LIKE_A_SECRET.search(name)


def notes_on(manifest: Manifest) -> Iterator[str]:
    """Yield remarks about variables, which are shown with the plan."""
    env = manifest.env
    foreign = sorted(name for name in env if name.lower() not in Settings.model_fields and not _is_platforms(name))
    if foreign:
        verb = "are not settings" if len(foreign) > 1 else "is not a setting"
        yield f"{', '.join(foreign)} {verb} of the worker; passed on unchanged."
    if manifest.mode == "load_balanced" and any(name.upper() == "API_KEYS" for name in env):
        yield "API_KEYS: RunPod checks its own key in the same header, so clients need a key that both accept."


def _is_platforms(name: str) -> bool:
    return name.upper().startswith("RUNPOD_")


def _value(document: Document, name: str, value: Any, environ: Mapping[str, str]) -> EnvValue:
    path = f"env.{name}"
    if isinstance(value, dict):
        secret = value.get("secret")
        if set(value) != {"secret"} or not isinstance(secret, str) or not _SECRET_NAME.fullmatch(secret):
            raise document.error(path, "must be a value, ${VARIABLE}, or secret: NAME with letters, digits and _.")
        return EnvValue(f"{{{{ RUNPOD_SECRET_{secret} }}}}", is_secret=True)
    if not isinstance(value, str):
        raise document.error(path, "must be a single value. Write a list in the setting's format, such as `3,1`.")
    if _FROM_RUNPOD.fullmatch(value.strip()):
        return EnvValue(value.strip(), is_secret=True)
    if found := _FROM_ENVIRONMENT.fullmatch(value.strip()):
        if not (text := environ.get(found[1].lower())):
            raise document.error(path, f"refers to ${{{found[1]}}}, which is not set. Export it or remove the line.")
        return EnvValue(text, is_secret=True)
    if "${" in value and name.upper() != "CHAT_TEMPLATE":
        raise document.error(path, "mixes ${...} with other text. The reference must be the whole value.")
    field = Settings.model_fields.get(name.lower())
    if is_secret(field) if field else _LIKE_A_SECRET.search(name):
        raise document.error(
            path,
            f"contains a secret in plain text. Use ${{{name.upper()}}} to take it from the environment, or secret: "
            "NAME for a secret stored at RunPod.",
        )
    return EnvValue(value, is_secret=False)


def _check(document: Document, env: Mapping[str, EnvValue], *, is_queue: bool) -> None:
    """Check the values with the worker's Settings, so that a bad value is found before anything is created."""
    faults = [
        document.error(f"env.{name}", f"is not a setting of the worker. Did you mean {near}?").message
        for name in env
        if (near := meant(name)) is not None
    ]
    platform = {"RUNPOD_ENDPOINT_ID": "planned"} | ({"RUNPOD_WEBHOOK_GET_JOB": "planned"} if is_queue else {})
    # The values of RunPod's secrets are unknown, and a reference would be refused where a number is required.
    known = {name: value.text for name, value in env.items() if not _FROM_RUNPOD.fullmatch(value.text)}
    try:
        Settings.load(known | platform)
    except SettingsError as error:
        secrets = Redactor(value.text for value in env.values() if value.is_secret)
        faults += [_with_line(document, env, sentence) for sentence in secrets.clean(error.message).splitlines()]
    if faults:
        raise ManifestError("\n".join(faults))


def _with_line(document: Document, env: Mapping[str, EnvValue], sentence: str) -> str:
    """Add the line of its variable to a sentence of the settings, such as "N_CTX='8k' is not valid: …"."""
    name = next((name for name in env if sentence.startswith(f"{name.upper()}=")), None)
    line = document.lines.get(f"env.{name}")
    return f"{document.title}{f', line {line}' if line else ', env'}: {sentence}"
