"""RunPod's REST API, version 2: lists, creates, changes and deletes volumes, templates and endpoints.

Source: the published OpenAPI description, https://api.runpod.io. Version 1 has no load-balanced endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from worker_gguf.deployment.channel import Answer, Channel, Clock, Unreached
from worker_gguf.deployment.existing import Kind, only
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["DEFAULT_URL", "RunpodApi"]

DEFAULT_URL: Final = "https://api.runpod.io"

_PATHS: Final[dict[Kind, str]] = {"volume": "network-volumes", "template": "templates", "endpoint": "serverless"}
_KEYS: Final[dict[Kind, str]] = {"volume": "networkVolumes", "template": "templates", "endpoint": "endpoints"}
_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0)
_TOO_MANY: Final = 429
_TEMPORARY: Final = frozenset({408, _TOO_MANY, 500, 502, 503, 504})
_NEXT_STEPS: Final = {
    **dict.fromkeys(
        (301, 302, 307, 308), "The API's address redirects elsewhere. Check --api-url and RUNPOD_REST_URL."
    ),
    401: "Create a key with write access in RunPod's console (Settings, API keys) and export it as RUNPOD_API_KEY.",
    403: "The key in RUNPOD_API_KEY lacks a permission: give it write access to Serverless, templates and storage.",
    404: "Check that it still exists in the account of the API key.",
    429: "Too many requests with this key. Wait a minute and run the command again.",
}


class RunpodApi:
    """A client of the API. It retries temporary failures without creating an object twice.

    Other failures, and the last one, raise DeploymentError.
    """

    def __init__(self, channel: Channel, base_url: str, clock: Clock) -> None:
        self.base_url = base_url.rstrip("/")
        self._channel = channel
        self._clock = clock

    def list(self, kind: Kind) -> Sequence[Body]:
        task = f"list {_KEYS[kind]}"
        objects = self._send("GET", _PATHS[kind], task).get(_KEYS[kind])
        if not isinstance(objects, list) or not all(isinstance(item, Mapping) for item in objects):
            raise _unreadable(task)
        return objects

    def create(self, kind: Kind, body: Body) -> Body:
        """Create an object with a new name.

        A request without an answer may have created the object. So the name is searched before a retry.
        """
        name = str(body["name"])
        task = f"create the {kind} {name!r}"
        return self._send("POST", _PATHS[kind], task, body, lambda: only(self.list(kind), kind, name))

    def update(self, kind: Kind, id: str, body: Body) -> Body:  # noqa: A002 - RunPod's word
        return self._send("PATCH", f"{_PATHS[kind]}/{id}", f"change the {kind} {id}", body)

    def delete(self, kind: Kind, id: str) -> None:  # noqa: A002
        """Delete an object. It may already be deleted, because the answer to an earlier request may have been lost."""
        self._send("DELETE", f"{_PATHS[kind]}/{id}", f"delete the {kind} {id}")

    def _send(
        self, method: str, path: str, task: str, body: Body | None = None, find: Callable[[], Body | None] | None = None
    ) -> Body:
        """Send a request, with retries after temporary failures. `find` searches for the result of a lost answer."""
        for wait_s in (*_WAITS_S, None):
            answer = None
            try:
                answer = self._channel.ask(method, f"{self.base_url}/v2/{path}", body)
            except Unreached as error:
                failure = self._no_answer(task, error)
            else:
                if answer.status not in _TEMPORARY:
                    return _checked(method, answer, task)
                failure = _refused(answer, task)
            if wait_s is None:
                raise failure
            retry_after_s = answer.retry_after_s if answer else None
            self._clock.sleep(wait_s if retry_after_s is None else retry_after_s)
            if find and (answer is None or answer.status != _TOO_MANY) and (found := find()):
                return found
        raise AssertionError("the last attempt returns or raises")

    def _no_answer(self, task: str, error: Unreached) -> DeploymentError:
        return DeploymentError(
            f"Could not {task}: {self.base_url} did not answer {len(_WAITS_S) + 1} times ({error}). Check the network "
            "and run the command again; it continues from what exists."
        )


def _checked(method: str, answer: Answer, task: str) -> Body:
    if method == "DELETE" and answer.status in (204, 404):
        return {}
    if not answer.is_good:
        raise _refused(answer, task)
    body: Any = answer.body
    if not isinstance(body, Mapping):
        raise _unreadable(task)
    return body


def _refused(answer: Answer, task: str) -> DeploymentError:
    detail = answer.detail().rstrip(".")
    step = _NEXT_STEPS.get(answer.status, "Correct deploy.yaml and run the command again.")
    if answer.status >= 500:
        step = "RunPod has a problem: run the command again later; it continues from what exists."
    return DeploymentError(f"RunPod did not {task}: {answer.status}{f', {detail}' if detail else ''}. {step}")


def _unreadable(task: str) -> DeploymentError:
    return DeploymentError(
        f"RunPod's answer to the request to {task} does not match the description of its API. Check --api-url and "
        "RUNPOD_REST_URL. If they are right, the API has changed and worker-gguf must be updated."
    )
