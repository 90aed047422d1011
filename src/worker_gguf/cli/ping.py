"""`worker-gguf ping`: returns whether the worker of this container can answer. The image's HEALTHCHECK runs it.

It reads the raw environment like the worker does (settings/fields.py), because importing pydantic takes longer than the
whole request.
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
    """Send GET /ping on this machine. Returns 0 if the answer is 200 or the worker has no port, otherwise 1."""
    given = environment.given(environ)
    try:
        port = port_of_ping(given)
    except SettingsError as error:
        print(error.message, file=sys.stderr)
        return 1
    if port is None:
        print("The worker takes jobs from the queue and has no port; set PORT_HEALTH to ask it.")
        return 0
    host = given.get("host", "127.0.0.1")
    try:
        connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=_TIMEOUT_S)
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"/ping on port {port} does not answer: {error}.", file=sys.stderr)
        return 1
    print(f"/ping says {status}.")
    return int(status != 200)


def port_of_ping(given: Mapping[str, str]) -> int | None:
    """Return the port of /ping, or None if the worker has none. Raises SettingsError.

    tests/cli/test_ping.py compares it with Settings.
    """
    if (text := given.get("port_health", "auto")).lower() != "auto":
        return _port(text, given)
    mode = given.get("mode", "auto").lower()
    if mode == "queue" or (mode == "auto" and "runpod_webhook_get_job" in given):
        return None
    default = "80" if any(name in given for name in _RUNPOD) else "8000"
    return _port(given.get("port", default), given)


def _port(text: str, given: Mapping[str, str]) -> int:
    """Return a plain number directly. Any other text is left to the settings, which read it or refuse it with a
    sentence.
    """
    if text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16:
        return int(text)
    from worker_gguf.settings import Settings

    return Settings.load(given).health_port
