"""Waits for the first answer of an endpoint, with a time limit, and reports each change of its state."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker_gguf.deployment.channel import Answer, Channel, Clock, Unreached
from worker_gguf.deployment.manifest import Mode
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

__all__ = ["Address", "Wait", "address_of", "curl"]

Pending = str | None
"""The reason why an answer is not the final one, or None if it is."""

_POLL_S: Final = 1.0
_REPEAT_S: Final = 60.0
# RunPod's load balancer holds a request for up to 2 minutes if it has no worker.
_REQUEST_S: Final = 150.0
_UNFINISHED: Final = frozenset({"IN_QUEUE", "IN_PROGRESS"})
_TEMPORARY: Final = frozenset({400, 404, 408, 425, 429, 500, 502, 503, 504})
_QUESTION: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 32}
_LOGS: Final = "See the logs of its workers in RunPod's console, under Serverless."


@dataclass(frozen=True, slots=True)
class Address:
    """The URLs of an endpoint. For a queue, `base` is https://api.runpod.ai/v2/ID, and `health` is None."""

    base: str
    openai: str
    health: str | None


def address_of(endpoint: Body, mode: Mode) -> Address:
    """Return the URLs in `requestUrls` of an endpoint. Older endpoints have none and use the documented URLs."""
    urls, id_ = endpoint.get("requestUrls"), endpoint["id"]
    known = urls if isinstance(urls, Mapping) else {}
    if mode == "queue":
        base = str(known.get("run") or f"https://api.runpod.ai/v2/{id_}/run").removesuffix("/run")
        return Address(base, f"{base}/openai/v1", None)
    base = str(known.get("base") or f"https://{id_}.api.runpod.ai").rstrip("/")
    return Address(base, f"{base}/v1", str(known.get("health") or f"{base}/ping"))


def curl(address: Address) -> str:
    """Return a shell command that sends a request. The shell inserts the key."""
    return (
        f"curl {address.openai}/chat/completions \\\n"
        '  -H "Authorization: Bearer $RUNPOD_API_KEY" -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(_QUESTION)}'"
    )


class Wait:
    """Waits for answers. Raises DeploymentError after `timeout_s`. The endpoint is kept in any case."""

    def __init__(self, channel: Channel, clock: Clock, say: Callable[[str], None], timeout_s: float) -> None:
        self._channel = channel
        self._clock = clock
        self._say = say
        self._timeout_s = timeout_s
        self._started_s = clock.now()
        self._seen = "nothing yet"
        self._reported_s = 0.0

    def first_answer(self, address: Address) -> None:
        """Send two requests and report their times. Only the first includes the start of a worker."""
        if address.health is None:
            self._ask_queue(address.base)
        else:
            self._until("GET", address.health)
            self._say(f"the first worker is ready after {self._elapsed_s():.1f} s")
            self._chat(address)
            self._say(f"first answer after {self._elapsed_s():.1f} s")
        started_s = self._clock.now()
        self._chat(address)
        self._say(f"second answer after {self._clock.now() - started_s:.1f} s")

    def _ask_queue(self, base: str) -> None:
        """Send a job, for which RunPod starts a worker, and wait for its result."""
        request = {"input": {"openai_route": "/v1/chat/completions", "openai_input": _QUESTION}}
        submitted = self._until("POST", f"{base}/run", request).body
        job = submitted.get("id") if isinstance(submitted, Mapping) else None
        if not isinstance(job, str):
            raise DeploymentError(f"The endpoint's queue answered without the id of a job. {_LOGS}")
        try:
            answer = self._until("GET", f"{base}/status/{job}", read=lambda answer, _: self._job_pending(base, answer))
        except BaseException:  # including Ctrl-C, because an abandoned job would start a worker, which costs money
            self._cancel(base, job)
            raise
        waited, ran = (_seconds(answer.body.get(key)) for key in ("delayTime", "executionTime"))
        self._say(f"first answer after {self._elapsed_s():.1f} s: {waited} for a worker and its start, {ran} to answer")

    def _job_pending(self, base: str, answer: Answer | None) -> Pending:
        body = answer.body if answer and answer.is_good and isinstance(answer.body, Mapping) else {}
        status = body.get("status")
        if status == "COMPLETED":
            output = body.get("output")
            _check_chat(output[0] if isinstance(output, list) and output else output)
            return None
        if status is not None and status not in _UNFINISHED:
            reason = " ".join(str(body.get("error") or "no reason given").split())[:500]
            raise DeploymentError(f"The first request ended as {status}: {reason}. {_LOGS}")
        health = self._ask("GET", f"{base}/health")
        return _workers(health.body if health else None)

    def _cancel(self, base: str, job: str) -> None:
        try:
            self._channel.ask("POST", f"{base}/cancel/{job}")
        except Unreached:
            self._say(f"the first request ({job}) could not be cancelled; it ends after its time limit")

    def _chat(self, address: Address) -> None:
        answer = self._until("POST", f"{address.openai}/chat/completions", _QUESTION)
        _check_chat(answer.body)

    def _until(
        self, method: str, url: str, body: object = None, *, read: Callable[[Answer | None, str], Pending] | None = None
    ) -> Answer:
        """Repeat the request until `read` (default: _pending) returns None. Reports the reasons that it returns."""
        while True:
            answer = self._ask(method, url, body)
            pending = (read or _pending)(answer, url)
            if answer is not None and pending is None:
                return answer
            self._progress(str(pending))
            if self._elapsed_s() >= self._timeout_s:
                raise DeploymentError(
                    f"No correct answer within {self._timeout_s:.0f} s; last state: {self._seen}. "
                    f"{_advice(self._seen)} The deployment is kept: run the command again to continue waiting."
                )
            self._clock.sleep(_POLL_S)

    def _ask(self, method: str, url: str, body: object = None) -> Answer | None:
        """Send a request. Returns None if there is no answer. Raises DeploymentError if waiting cannot help."""
        left_s = self._timeout_s - self._elapsed_s()
        try:
            answer = self._channel.ask(method, url, body, timeout_s=max(min(left_s, _REQUEST_S), 1.0))
        except Unreached:
            return None
        if answer.status in (401, 403):
            raise DeploymentError(
                f"The endpoint was created but answers {answer.status}: the key in RUNPOD_API_KEY lacks permission for "
                "requests, or the worker's API_KEYS do not include it. Give the key access to the endpoint."
            )
        if "not allowed for QB API" in answer.detail():
            raise DeploymentError("The endpoint has a queue but was used as a load balancer. Check its type.")
        return answer

    def _progress(self, seen: str) -> None:
        elapsed_s = self._elapsed_s()
        if seen != self._seen or elapsed_s - self._reported_s >= _REPEAT_S:
            self._say(f"  {elapsed_s:4.0f} s  {seen}")
            self._seen, self._reported_s = seen, elapsed_s

    def _elapsed_s(self) -> float:
        return self._clock.now() - self._started_s


def _pending(answer: Answer | None, url: str) -> Pending:
    if answer is None:
        return "no answer from RunPod"
    if answer.status == 204:
        return "a worker is loading the model"
    if answer.is_good:
        return None
    detail = answer.detail()
    if answer.status not in _TEMPORARY:
        raise DeploymentError(
            f"The endpoint answered {answer.status} to {url}{f': {detail}' if detail else ''}. {_LOGS}"
        )
    return f"no worker yet ({answer.status}{f', {detail}' if detail else ''})"


def _check_chat(body: Any) -> None:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices:
        raise DeploymentError(f"The endpoint's answer is not a chat completion. Is the image a worker-gguf? {_LOGS}")


def _workers(body: Any) -> str:
    workers = body.get("workers") if isinstance(body, Mapping) else None
    counts = {str(k): v for k, v in workers.items() if isinstance(v, int) and v} if isinstance(workers, Mapping) else {}
    return f"workers: {', '.join(f'{n} {state}' for state, n in sorted(counts.items()))}" if counts else "no worker yet"


def _advice(seen: str) -> str:
    if "throttled" in seen:
        return "RunPod has no free card of these pools: add gpu.pools, or use data centres that have them."
    return _LOGS


def _seconds(ms: Any) -> str:
    return f"{ms / 1000:.1f} s" if isinstance(ms, int | float) else "an unknown time"
