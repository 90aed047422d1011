"""The account of one request: its caller, route, times and counts, without its content.

An interface opens an `Account`, the service and the reply write to it, and the interface closes it. The
result is a frozen `Record`, from which the log line, the metrics and the traces are made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from worker_gguf.errors import WorkerError
from worker_gguf.generation.events import Finished
from worker_gguf.generation.progress import Progress, Tally

__all__ = ["CANCELLED", "Account", "Choice", "Record", "Via"]

CANCELLED = 499  # nginx's status for "client closed request"; it is logged and counted but never sent

Via = Literal["http", "queue", "batch"]


class Choice(NamedTuple):
    """One answer of a request.

    Times are from `time.monotonic`, or None for events that did not happen. `finish_reason` is None if the client left.
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
    """A request that is over. Times are from `time.monotonic`, except `ended_unix_s`.

    `status` is the status of the answer, or 499 if the client left. `code` is the code of the error, even if a stream
    started with status 200. `route` is the template of the route, and `operation` its name in traces. `model` and
    `answer_id` are chosen by the worker. `ignored` has names that the client chose.
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
    """Seconds until its model was in memory, or None in a worker with a single model."""
    reasoning_tokens: int = 0
    """Those of `completion_tokens` that are reasoning."""
    tool_calls: int = 0

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s

    @property
    def is_cancelled(self) -> bool:
        """True if the client left or the job was stopped before the end."""
        return self.status == CANCELLED

    @property
    def finish_reasons(self) -> list[str]:
        """The different finish reasons of its choices, sorted."""
        return sorted({choice.finish_reason for choice in self.choices if choice.finish_reason})

    @property
    def queue_wait_s(self) -> float | None:
        """The seconds from the submission until the first choice had a slot, or None."""
        admitted = [choice.admitted_s - choice.submitted_s for choice in self.choices if choice.admitted_s is not None]
        return min(admitted, default=None)

    @property
    def first_token_s(self) -> float | None:
        """The seconds from the start of the request until its first token was drawn, or None."""
        first = self._first
        return None if first is None or first.first_token_s is None else first.first_token_s - self.started_s

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prompt tokens per second, over the choices that had a slot before the first token was drawn, or None.

        Tokens from the cache are not counted.
        """
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
        """Tokens per second of all choices together, after the first token. None if there is only one token."""
        first = self._first
        if first is None or first.first_token_s is None:
            return None
        ends = [self.ended_s if choice.ended_s is None else choice.ended_s for choice in self.choices]
        n_after_first = sum(choice.completion_tokens for choice in self.choices) - 1
        return _rate(n_after_first, max(ends) - first.first_token_s)

    @property
    def seconds_per_token(self) -> list[float]:
        """The mean seconds between two tokens, for each choice with two or more tokens."""
        return [
            (choice.ended_s - choice.first_token_s) / (choice.completion_tokens - 1)
            for choice in self.choices
            if choice.ended_s is not None and choice.first_token_s is not None and choice.completion_tokens > 1
        ]

    @property
    def _first(self) -> Choice | None:
        answered = [choice for choice in self.choices if choice.first_token_s is not None]
        return min(answered, key=lambda choice: choice.first_token_s or 0.0, default=None)


class Account:
    """Collects the times and counts of a running request. Use it only on the request's event loop."""

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
        self._tallies: Sequence[Tally] = ()
        self._endings: dict[int, Finished] = {}

    def routed(self, method: str, route: str, operation: str | None = None) -> None:
        """Note the route. `route` is its template, never the path from the client."""
        self._method, self._route, self._operation = method, route, operation

    def submitted(
        self,
        progress: Sequence[Progress],
        tallies: Sequence[Tally] = (),
        *,
        model: str,
        answer_id: str,
        stream: bool,
        n: int,
        ignored: tuple[str, ...] = (),
    ) -> None:
        """Note that the request was submitted to the engine, with `n` choices for each prompt.

        `progress` and `tallies` have one entry for each choice, which are read when the request is over.
        """
        self._progress, self._tallies, self._n = progress, tallies, n
        self._model, self._answer_id, self._stream = model, answer_id, stream
        self.ignored += ignored

    def finished(self, index: int, event: Finished) -> None:
        self._endings[index] = event

    @property
    def is_answered(self) -> bool:
        """Whether all choices have ended without an error."""
        return 0 < len(self._progress) == len(self._endings) and self.error is None

    def close(self, status: int) -> Record:
        """Return the record of the request. Call it when the request is over."""
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
            reasoning_tokens=sum(tally.reasoning_tokens for tally in self._tallies),
            tool_calls=sum(tally.tool_calls for tally in self._tallies),
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
