"""RunPod's REST API, version 2: lists, creates, changes and deletes volumes, templates and endpoints.

Source: the published OpenAPI description, https://api.runpod.io. Version 1 knows no load-balanced endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_gguf.deployment.channel import Answer, Channel, Clock, Unreached
from worker_gguf.deployment.existing import Kind, only
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["DEFAULT_URL", "RunpodApi"]

DEFAULT_URL: Final = "https://api.runpod.io"

_PATHS: Final[dict[Kind, str]] = {"volume": "network-volumes", "template": "templates", "endpoint": "serverless"}
_KEYS: Final[dict[Kind, str]] = {"volume": "networkVolumes", "template": "templates", "endpoint": "endpoints"}
_N_TRIES: Final = 5
_FIRST_WAIT_S: Final = 1.0
_BUSY: Final = 429
_BROKEN: Final = frozenset({408, 500, 502, 503, 504})
_NEXT_STEPS: Final = {
    401: "Make a key with write access in RunPod's console (Settings, API keys) and export it as RUNPOD_API_KEY.",
    403: "The key in RUNPOD_API_KEY may not do that: give it write access to Serverless, templates and storage.",
    404: "Is it still there, in the account that the key belongs to?",
    429: "Too many requests with this key. Wait a minute and run the command again.",
}


class RunpodApi:
    """Errors are DeploymentError. Requests that failed for a moment are sent again; none of them does a thing twice."""

    def __init__(self, channel: Channel, base_url: str, clock: Clock) -> None:
        self.base_url = base_url.rstrip("/")
        self._channel = channel
        self._clock = clock

    def list(self, kind: Kind) -> Sequence[Body]:
        body = self._again("GET", _PATHS[kind], f"list {_KEYS[kind]}")
        objects = body.get(_KEYS[kind])
        if not isinstance(objects, list) or not all(isinstance(item, Mapping) for item in objects):
            raise _unreadable(f"list {_KEYS[kind]}")
        return objects

    def create(self, kind: Kind, body: Body) -> Body:
        """Create an object and return it. When the answer is lost, the object may exist: it is looked up by its name,
        which was unused before, and created again only if it is not there.
        """
        doing = f"create the {kind} {body['name']!r}"
        for n in range(1, _N_TRIES + 1):
            try:
                answer = self._channel.ask("POST", self._url(_PATHS[kind]), body)
            except Unreached as error:
                if n == _N_TRIES:
                    raise self._no_answer(doing, error) from None
                answer = None
            if answer is not None and answer.status not in _BROKEN | {_BUSY}:
                return _checked(answer, doing)
            if answer is not None and n == _N_TRIES:
                raise _refused(answer, doing)
            self._wait(n, answer)
            if (answer is None or answer.status != _BUSY) and (made := only(self.list(kind), kind, body["name"])):
                return made
        raise AssertionError("the last try raises")

    def update(self, kind: Kind, id: str, body: Body) -> Body:  # noqa: A002 - RunPod's word
        return self._again("PATCH", f"{_PATHS[kind]}/{id}", f"change the {kind} {id}", body)

    def delete(self, kind: Kind, id: str) -> None:  # noqa: A002
        """Delete an object. One that is gone already is no error, since a lost answer repeats the request."""
        self._again("DELETE", f"{_PATHS[kind]}/{id}", f"delete the {kind} {id}")

    def _again(self, method: str, path: str, doing: str, body: Body | None = None) -> Body:
        """Send until it is answered. Only for what may be done twice."""
        for n in range(1, _N_TRIES + 1):
            try:
                answer = self._channel.ask(method, self._url(path), body)
            except Unreached as error:
                if n == _N_TRIES:
                    raise self._no_answer(doing, error) from None
                self._wait(n, None)
                continue
            if method == "DELETE" and answer.status in (204, 404):
                return {}
            if answer.status not in _BROKEN | {_BUSY}:
                return _checked(answer, doing)
            if n == _N_TRIES:
                raise _refused(answer, doing)
            self._wait(n, answer)
        raise AssertionError("the last try raises")

    def _wait(self, n: int, answer: Answer | None) -> None:
        asked_s = answer.retry_after_s if answer else None
        self._clock.sleep(_FIRST_WAIT_S * 2 ** (n - 1) if asked_s is None else asked_s)

    def _url(self, path: str) -> str:
        return f"{self.base_url}/v2/{path}"

    def _no_answer(self, doing: str, error: Unreached) -> DeploymentError:
        return DeploymentError(
            f"Could not {doing}: {self.base_url} gave no answer {_N_TRIES} times ({error}). Check the network and run "
            "the command again; it continues from there."
        )


def _checked(answer: Answer, doing: str) -> Body:
    if not answer.is_good:
        raise _refused(answer, doing)
    body: Any = answer.body
    if not isinstance(body, Mapping):
        raise _unreadable(doing)
    return body


def _refused(answer: Answer, doing: str) -> DeploymentError:
    said = answer.said().rstrip(".")
    if answer.status >= 500:
        step = "RunPod has a problem: run the command again later; it continues from there."
    elif answer.status in (301, 302, 307, 308):
        step = "The address of the API leads elsewhere. Check --api-url and RUNPOD_REST_URL."
    else:
        step = _NEXT_STEPS.get(answer.status, "Correct deploy.yaml and run the command again.")
    return DeploymentError(f"RunPod did not {doing}: {answer.status}{f', {said}' if said else ''}. {step}")


def _unreadable(doing: str) -> DeploymentError:
    return DeploymentError(
        f"RunPod's answer to the request to {doing} is not what its API describes. Check --api-url and "
        "RUNPOD_REST_URL; if they are right, the API has changed and worker-gguf must follow."
    )
