"""The account of one request: its caller, route, times and counts, and nothing of its content.

HTTP or the queue opens an `Account`, the service and the reply write into it, and then it is closed. The result is a
frozen `Record`, from which the log line, the metrics and the traces are made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from worker_gguf.engine.events import Finished
from worker_gguf.engine.progress import Progress
from worker_gguf.errors import WorkerError

__all__ = ["CANCELLED", "Account", "Choice", "Record", "Via"]

CANCELLED = 499  # nginx's status for a client that left. It is logged and counted, but never sent.

Via = Literal["http", "queue"]

# These are named tuples because this module is imported in the cold start, and a dataclass with so many fields takes
# milliseconds to create.


class Choice(NamedTuple):
    """One answer of a request. Times are values of `time.monotonic`; None means that it never happened. `finish_reason`
    is None if the client had left.
    """

    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    submitted_s: float
    admitted_s: float | None
    first_token_s: float | None
    ended_s: float | None

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


class Record(NamedTuple):
    """A request that has ended. Times are values of `time.monotonic`, except `ended_unix_s`.

    `status` is the status of the answer, or 499 if the client had left. `code` is the code of the error, including an
    error that ended a stream with status 200. `route` is the template of a route and `operation` its name in traces.
    `model` and `answer_id` are the worker's own names. `ignored` are names that the client wrote.
    """

    via: Via
    request_id: str
    method: str
    route: str
    operation: str | None
    status: int
    code: str | None
    model: str | None
    answer_id: str | None
    stream: bool
    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ignored: tuple[str, ...]
    started_s: float
    ended_s: float
    ended_unix_s: float
    traceparent: str | None
    tracestate: str | None
    model_wait_s: float | None = None
    """Until its model was in memory; None where there is but one model."""

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s

    @property
    def is_cancelled(self) -> bool:
        """Whether the client left, or the job was stopped, before the end."""
        return self.status == CANCELLED

    @property
    def finish_reasons(self) -> list[str]:
        """The different finish reasons of all choices."""
        return sorted({choice.finish_reason for choice in self.choices if choice.finish_reason})

    @property
    def queue_wait_s(self) -> float | None:
        """Seconds from the submission until the first choice had a slot."""
        admitted = [choice.admitted_s - choice.submitted_s for choice in self.choices if choice.admitted_s is not None]
        return min(admitted, default=None)

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the request's first byte until its first token was drawn."""
        first = self._first
        return None if first is None or first.first_token_s is None else first.first_token_s - self.started_s

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """The prompt tokens of the choices that began before the first token, divided by the time of their prefill."""
        first = self._first
        if first is None or first.first_token_s is None:
            return None
        times = [
            (choice.admitted_s, choice.first_token_s, choice.computed_tokens)
            for choice in self.choices
            if choice.admitted_s is not None
            and choice.first_token_s is not None
            and choice.admitted_s <= first.first_token_s
        ]
        seconds = max(end_s for _, end_s, _ in times) - min(begin_s for begin_s, _, _ in times)
        return _rate(sum(n for _, _, n in times), seconds)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """The tokens per second of all choices together after the first token, or None for a single token."""
        first = self._first
        if first is None or first.first_token_s is None:
            return None
        ends = [self.ended_s if choice.ended_s is None else choice.ended_s for choice in self.choices]
        n_after_first = sum(choice.completion_tokens for choice in self.choices) - 1
        return _rate(n_after_first, max(ends) - first.first_token_s)

    @property
    def seconds_per_token(self) -> list[float]:
        """The mean time between two tokens of each choice that has two or more."""
        return [
            (choice.ended_s - choice.first_token_s) / (choice.completion_tokens - 1)
            for choice in self.choices
            if choice.ended_s is not None and choice.first_token_s is not None and choice.completion_tokens > 1
        ]

    @property
    def _first(self) -> Choice | None:
        spoke = [choice for choice in self.choices if choice.first_token_s is not None]
        return min(spoke, key=lambda choice: choice.first_token_s or 0.0, default=None)


class Account:
    """The account of a request that is being served. It is used only on the request's event loop."""

    def __init__(
        self, via: Via, request_id: str, *, traceparent: str | None = None, tracestate: str | None = None
    ) -> None:
        self.started_s = time.monotonic()
        self.error: WorkerError | None = None
        self.model_wait_s: float | None = None
        self.ignored: tuple[str, ...] = ()
        self._method = self._route = "other"
        self._operation: str | None = None
        self._via: Via = via
        self.request_id = request_id
        self._trace = traceparent, tracestate
        self._model: str | None = None
        self._answer_id: str | None = None
        self._stream = False
        self._n = 1
        self._progress: Sequence[Progress] = ()
        self._endings: dict[int, Finished] = {}

    def routed(self, method: str, route: str, operation: str | None = None) -> None:
        """Record the route. `route` is its template, never the path that a client wrote."""
        self._method, self._route, self._operation = method, route, operation

    def submitted(
        self,
        progress: Sequence[Progress],
        *,
        model: str,
        answer_id: str,
        stream: bool,
        n: int,
        ignored: tuple[str, ...] = (),
    ) -> None:
        """Record that the engine has the request, with `n` choices for each prompt."""
        self._progress, self._n = progress, n
        self._model, self._answer_id, self._stream = model, answer_id, stream
        self.ignored += ignored

    def finished(self, index: int, event: Finished) -> None:
        self._endings[index] = event

    def close(self, status: int) -> Record:
        """Return the record of the request, which has ended."""
        choices = tuple(self._choice(index, progress) for index, progress in enumerate(self._progress))
        prompts = [choices[i : i + self._n] for i in range(0, len(choices), self._n)]
        traceparent, tracestate = self._trace
        return Record(
            via=self._via,
            request_id=self.request_id,
            method=self._method,
            route=self._route,
            operation=self._operation,
            status=status,
            code=self.error.code if self.error is not None else None,
            model=self._model,
            answer_id=self._answer_id,
            stream=self._stream,
            choices=choices,
            prompt_tokens=sum(prompt[0].prompt_tokens for prompt in prompts),
            cached_tokens=sum(min(choice.cached_tokens for choice in prompt) for prompt in prompts),
            completion_tokens=sum(choice.completion_tokens for choice in choices),
            ignored=self.ignored,
            started_s=self.started_s,
            ended_s=time.monotonic(),
            ended_unix_s=time.time(),
            traceparent=traceparent,
            tracestate=tracestate,
            model_wait_s=self.model_wait_s,
        )

    def _choice(self, index: int, progress: Progress) -> Choice:
        ending = self._endings.get(index)
        return Choice(
            finish_reason=ending.reason if ending else None,
            prompt_tokens=progress.prompt_tokens,
            cached_tokens=progress.cached_tokens,
            completion_tokens=ending.usage.completion_tokens if ending else progress.completion_tokens,
            submitted_s=progress.submitted_s,
            admitted_s=progress.admitted_s,
            first_token_s=progress.first_token_s,
            ended_s=progress.ended_s,
        )


def _rate(n_tokens: int, seconds: float) -> float | None:
    return n_tokens / seconds if n_tokens > 0 and seconds > 0 else None
