"""Waits for an endpoint's first right answer: bounded, a line whenever something changed, and the times it took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker_gguf.deployment.address import BalancedAddress, QueueAddress
from worker_gguf.deployment.channel import Answer, Channel, Clock, Unreached
from worker_gguf.errors import DeploymentError

__all__ = ["Healthy", "Wait"]

_POLL_S: Final = 1.0
_SAY_AGAIN_S: Final = 60.0
# RunPod's balancer holds a request for 2 minutes while it has no worker; a warm answer comes much sooner.
_HELD_S: Final = 150.0
_OPEN: Final = frozenset({"IN_QUEUE", "IN_PROGRESS"})
_NOT_YET: Final = frozenset({204, 400, 404, 408, 425, 429, 500, 502, 503, 504})
_QUESTION: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
_LOOK: Final = "The logs of its workers, in RunPod's console under Serverless, say more."


@dataclass(frozen=True, slots=True)
class Healthy:
    """Seconds from the first question to its answer, the start of a worker included; then of a second question."""

    first_s: float
    second_s: float


class Wait:
    """One wait, for `timeout_s` at most. The endpoint stays, whatever the result."""

    def __init__(self, channel: Channel, clock: Clock, say: Callable[[str], None], timeout_s: float) -> None:
        self._channel = channel
        self._clock = clock
        self._say = say
        self._timeout_s = timeout_s
        self._began_s = clock.now()
        self._seen = "nothing yet"
        self._said_s = 0.0

    def queue(self, address: QueueAddress) -> Healthy:
        """Ask by a job, which makes RunPod start a worker; then over the OpenAI route, as clients will."""
        job = self._submit(address)
        is_over = False
        try:
            done = self._job(address, job)
            is_over = True
        finally:
            if not is_over:  # also after Ctrl-C: a job that is left behind would start a worker, and cost money
                self._cancel(address, job)
        first_s = self._elapsed_s()
        waited, ran = (_seconds(done.get(key)) for key in ("delayTime", "executionTime"))
        self._say(f"first answer after {first_s:.1f} s: {waited} for a worker and its start, {ran} to answer")
        return self._second(address.openai, first_s)

    def balanced(self, address: BalancedAddress) -> Healthy:
        """Ask the health check until it answers 200, and then send a question."""
        self._until(lambda: self._ask("GET", address.health), _pinged)
        self._say(f"the first worker is ready after {self._elapsed_s():.1f} s")
        answer = self._until(lambda: self._ask("POST", f"{address.openai}/chat/completions", _QUESTION), _answered)
        _check_chat(answer.body)
        first_s = self._elapsed_s()
        self._say(f"first answer after {first_s:.1f} s")
        return self._second(address.openai, first_s)

    def _submit(self, address: QueueAddress) -> str:
        given = {"input": {"openai_route": "/v1/chat/completions", "openai_input": _QUESTION}}
        answer = self._until(lambda: self._ask("POST", f"{address.base}/run", given), _submitted)
        return str(answer.body["id"])

    def _job(self, address: QueueAddress, job: str) -> Mapping[str, Any]:
        """Return the completed job; while it waits, report the state of the endpoint's workers."""
        while True:
            answer = self._ask("GET", f"{address.base}/status/{job}")
            said = answer.body if answer and answer.is_good and isinstance(answer.body, Mapping) else {}
            status = said.get("status")
            if status == "COMPLETED":
                output = said.get("output")
                _check_chat(output[0] if isinstance(output, list) and output else output)
                return said
            if status is not None and status not in _OPEN:
                why = " ".join(str(said.get("error") or "no reason given").split())[:500]
                raise DeploymentError(f"The first request ended as {status}: {why}. {_LOOK}")
            health = self._ask("GET", f"{address.base}/health")
            self._progress(_workers(health.body if health else None))
            self._pause()

    def _cancel(self, address: QueueAddress, job: str) -> None:
        try:
            self._channel.ask("POST", f"{address.base}/cancel/{job}")
        except Unreached:
            self._say(f"the first request ({job}) could not be cancelled; it ends after its time limit")

    def _second(self, openai: str, first_s: float) -> Healthy:
        began_s = self._clock.now()
        answer = self._until(lambda: self._ask("POST", f"{openai}/chat/completions", _QUESTION), _answered)
        _check_chat(answer.body)
        second_s = self._clock.now() - began_s
        self._say(f"second answer after {second_s:.1f} s")
        return Healthy(first_s, second_s)

    def _until(self, ask: Callable[[], Answer | None], read: Callable[[Answer], str | None]) -> Answer:
        """Ask until `read` accepts the answer; its complaints are shown."""
        while True:
            answer = ask()
            missing = "no answer from RunPod" if answer is None else read(answer)
            if answer is not None and missing is None:
                return answer
            self._progress(str(missing))
            self._pause()

    def _ask(self, method: str, url: str, body: object = None) -> Answer | None:
        """Return None where no answer came, which may come next time. Raises errors that waiting cannot mend."""
        left_s = self._timeout_s - self._elapsed_s()
        try:
            answer = self._channel.ask(method, url, body, timeout_s=max(min(left_s, _HELD_S), 1.0))
        except Unreached:
            return None
        if answer.status in (401, 403):
            raise DeploymentError(
                f"The endpoint was made, and answers {answer.status}: the key in RUNPOD_API_KEY may not send it "
                "requests, or the worker's own API_KEYS do not have it. Give the key access to the endpoint."
            )
        if "not allowed for QB API" in answer.said():
            raise DeploymentError("The endpoint has a queue, and was asked as a load balancer. Check its type.")
        return answer

    def _progress(self, seen: str) -> None:
        elapsed_s = self._elapsed_s()
        if seen != self._seen or elapsed_s - self._said_s >= _SAY_AGAIN_S:
            self._say(f"  {elapsed_s:4.0f} s  {seen}")
            self._seen, self._said_s = seen, elapsed_s

    def _pause(self) -> None:
        if self._elapsed_s() >= self._timeout_s:
            raise DeploymentError(
                f"No right answer within {self._timeout_s:.0f} s; last seen: {self._seen}. {_advice(self._seen)} The "
                "deployment stays as it is: run the command again to wait on."
            )
        self._clock.sleep(_POLL_S)

    def _elapsed_s(self) -> float:
        return self._clock.now() - self._began_s


def _submitted(answer: Answer) -> str | None:
    if answer.is_good and isinstance(answer.body, Mapping) and isinstance(answer.body.get("id"), str):
        return None
    return _not_yet(answer, "a request")


def _pinged(answer: Answer) -> str | None:
    if answer.status == 200:
        return None
    return "a worker loads the model" if answer.status == 204 else _not_yet(answer, "the health check")


def _answered(answer: Answer) -> str | None:
    return None if answer.status == 200 else _not_yet(answer, "a chat request")


def _not_yet(answer: Answer, to: str) -> str:
    said = answer.said()
    if answer.status not in _NOT_YET:
        raise DeploymentError(f"The endpoint answered {answer.status} to {to}{f': {said}' if said else ''}. {_LOOK}")
    return f"no worker yet ({answer.status}{f', {said}' if said else ''})"


def _check_chat(body: Any) -> None:
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices:
        raise DeploymentError(f"The endpoint answers, and not as a chat. Is the image a worker-gguf? {_LOOK}")


def _workers(body: Any) -> str:
    workers = body.get("workers") if isinstance(body, Mapping) else None
    counts = {str(k): v for k, v in workers.items() if isinstance(v, int) and v} if isinstance(workers, Mapping) else {}
    return f"workers: {', '.join(f'{n} {state}' for state, n in sorted(counts.items()))}" if counts else "no worker yet"


def _advice(seen: str) -> str:
    if "throttled" in seen:
        return "RunPod has no such card free: add gpu.pools, or take data centres that have them."
    return _LOOK


def _seconds(ms: Any) -> str:
    return f"{ms / 1000:.1f} s" if isinstance(ms, int | float) else "an unknown time"
