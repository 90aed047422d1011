"""The `env` of deploy.yaml: references to secrets resolved, values checked by the worker's own Settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from worker_gguf.deployment.document import Branch
from worker_gguf.deployment.manifest import EnvValue, Mode
from worker_gguf.deployment.redactor import Redactor
from worker_gguf.deployment.section import Section
from worker_gguf.errors import ManifestError, SettingsError
from worker_gguf.settings import Settings
from worker_gguf.settings.text import is_secret
from worker_gguf.settings.typos import meant

__all__ = ["is_shown", "notes_on", "read_env"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_THEIRS: Final = re.compile(r"\{\{\s*RUNPOD_SECRET_[A-Za-z0-9_]+\s*\}\}")
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,64}")
_LIKE_A_SECRET: Final = re.compile(r"(^|_)(KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_MODES: Final[dict[Mode, str]] = {"queue": "queue", "load_balanced": "http"}
_MOST: Final = 50
"""RunPod's limit on variables, written of Pods."""


def read_env(section: Section, mode: Mode, environ: Mapping[str, str]) -> dict[str, EnvValue]:
    """Return the worker's variables, MODE and MODEL included. `environ` has names in lower case (environment.given)."""
    given = section.section("env")
    found: dict[str, EnvValue] = {}
    for name, branch in _items(section, given):
        if name.upper() in {known.upper() for known in found}:
            raise section.fault(f"env.{name}", "stands there twice: upper and lower case are the same. Remove one.")
        found[name] = _value(section, name, branch, environ)
    _add(section, found, "MODEL", section.text("model"), "model")
    _add(section, found, "MODE", _MODES[mode], "mode")
    if len(found) > _MOST:
        raise section.fault("env", f"has {len(found)} variables with MODE and MODEL, and RunPod takes {_MOST}.")
    _check(section, found, mode)
    return found


def is_shown(name: str, value: EnvValue | None = None) -> bool:
    """Whether a variable's value may be printed: a setting of the worker or of RunPod that is not secret. Other
    variables are hidden.
    """
    if value is not None and value.is_secret:
        return False
    if (field := Settings.model_fields.get(name.lower())) is not None:
        return not is_secret(field)
    return _is_platforms(name) and not _LIKE_A_SECRET.search(name)


def notes_on(env: Mapping[str, EnvValue], mode: Mode) -> Iterator[str]:
    """Return the hints about variables for the reader of the plan."""
    foreign = sorted(name for name in env if name.lower() not in Settings.model_fields and not _is_platforms(name))
    if foreign:
        verb = "are not settings" if len(foreign) > 1 else "is not a setting"
        yield f"{', '.join(foreign)} {verb} of the worker; passed on as written."
    if mode == "load_balanced" and any(name.upper() == "API_KEYS" for name in env):
        yield "API_KEYS: RunPod checks its own key in the same header, so clients must send a key that both accept."


def _is_platforms(name: str) -> bool:
    return name.upper().startswith("RUNPOD_")


def _items(section: Section, given: Section | None) -> Iterator[tuple[str, Branch]]:
    raw = section.raw("env")
    if given is None or not isinstance(raw, dict):
        return
    for name, branch in raw.items():
        if not _NAME.fullmatch(name):
            raise section.fault(f"env.{name}", "is not the name of a variable: letters, digits and _ only.")
        yield name, branch


def _value(section: Section, name: str, branch: Branch, environ: Mapping[str, str]) -> EnvValue:
    key = f"env.{name}"
    if isinstance(branch, dict):
        return EnvValue(_of_runpod(section, key, branch), is_secret=True)
    if not isinstance(branch, str):
        raise section.fault(key, "must be one value. Write a list as the setting takes it, such as `3,1`.")
    if _THEIRS.fullmatch(branch.strip()):
        return EnvValue(branch.strip(), is_secret=True)
    if found := _OURS.fullmatch(branch.strip()):
        if not (text := environ.get(found[1].lower())):
            raise section.fault(key, f"takes ${{{found[1]}}}, which is not set here. Export it, or remove the line.")
        return EnvValue(text, is_secret=True)
    if "${" in branch and name.upper() != "CHAT_TEMPLATE":
        raise section.fault(key, "mixes ${...} with other text. The reference must be the whole value.")
    field = Settings.model_fields.get(name.lower())
    if is_secret(field) if field else _LIKE_A_SECRET.search(name):
        raise section.fault(
            key,
            f"holds a secret in plain text. Write ${{{name.upper()}}} to take it from the environment, or secret: "
            "NAME for one that is stored at RunPod.",
        )
    return EnvValue(branch, is_secret=False)


def _of_runpod(section: Section, key: str, branch: Mapping[str, Branch]) -> str:
    name = branch.get("secret")
    if set(branch) != {"secret"} or not isinstance(name, str) or not _SECRET_NAME.fullmatch(name):
        raise section.fault(key, "must be a value, ${VARIABLE}, or secret: NAME with letters, digits and _.")
    return f"{{{{ RUNPOD_SECRET_{name} }}}}"


def _add(section: Section, env: dict[str, EnvValue], name: str, text: str | None, key: str) -> None:
    """Set a variable from a key above `env`. The variable itself in `env` would contradict it."""
    if text is None:
        return
    if rival := next((other for other in env if other.upper() == name), None):
        raise section.fault(f"env.{rival}", f"says what `{key}` sets. Remove the line.")
    env[name] = EnvValue(text, is_secret=False)


def _check(section: Section, env: Mapping[str, EnvValue], mode: Mode) -> None:
    """Have the worker's own settings judge the values, as the worker will, before anything is created."""
    for name in env:
        if (near := meant(name)) is not None:
            raise section.fault(f"env.{name}", f"is not a setting of the worker. Did you mean {near}?")
    platform = {"RUNPOD_ENDPOINT_ID": "planned"} | ({"RUNPOD_WEBHOOK_GET_JOB": "planned"} if mode == "queue" else {})
    # The value that RunPod fills in is unknown here, so only text settings can be checked with a reference.
    known = {name: value.text for name, value in env.items() if not _THEIRS.fullmatch(value.text)}
    try:
        Settings.load(known | platform)
    except SettingsError as error:
        secrets = Redactor(value.text for value in env.values() if value.is_secret)
        raise ManifestError(f"{section.title}, env: {secrets.clean(error.message)}") from None
