"""`worker-gguf ping` checks whether the worker of this container is ready. It is the image's HEALTHCHECK.

It reads the environment without the settings, because importing pydantic takes longer than the request. The defaults
must be equal to those in settings/fields.py.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping

from worker_gguf import environment
from worker_gguf.errors import SettingsError

__all__ = ["ping", "port_of_ping"]

_TIMEOUT_S = 3.0
_RUNPOD = ("runpod_pod_id", "runpod_endpoint_id", "runpod_webhook_get_job")


def ping(environ: Mapping[str, str] | None = None) -> int:
    """Request /ping on this machine. Returns 0 if it answers 200 or the worker has no port, else 1."""
    variables = environment.given(environ)
    try:
        port = port_of_ping(variables)
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 1
    if port is None:
        print("The worker takes jobs from the queue and has no port. Set PORT_HEALTH to enable /ping.")
        return 0
    host = variables.get("host", "127.0.0.1")
    try:
        connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=_TIMEOUT_S)
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"/ping on port {port} does not answer: {error}.", file=sys.stderr)
        return 1
    print(f"/ping answers {status}.")
    return int(status != 200)


def port_of_ping(variables: Mapping[str, str]) -> int | None:
    """Return the port of /ping, or None if the worker has none. Raises SettingsError.

    tests/cli/test_ping.py compares it with Settings.
    """
    if (text := variables.get("port_health", "auto")).lower() != "auto":
        return _port(text, variables)
    mode = variables.get("mode", "auto").lower()
    if mode == "queue" or (mode == "auto" and "runpod_webhook_get_job" in variables):
        return None
    default = "80" if any(name in variables for name in _RUNPOD) else "8000"
    return _port(variables.get("port", default), variables)


def _port(text: str, variables: Mapping[str, str]) -> int:
    """Return a port. A text that is not a plain number is read by the settings, which raise SettingsError."""
    if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16:
        return int(text)
    from worker_gguf.settings import Settings

    return Settings.load(variables).health_port
