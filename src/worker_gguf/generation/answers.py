"""The answers in progress: turns the reports of an engine process into events for the callers.

Used under the lock of its engine.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct, field

from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.stats import EngineStats
from worker_gguf.engine.updates import FinishReason
from worker_gguf.errors import QueueFull, WorkerError
from worker_gguf.generation.detokenizer import Detokenizer
from worker_gguf.generation.events import Delta, Event, Finished, PromptLogprobs, TokenLogprob, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.generation.stream import EventStream, Outbox
from worker_gguf.link.errors import error_of
from worker_gguf.link.messages import Add, Ending, Step

__all__ = ["Answers", "Pieces"]


class Pieces(Protocol):
    """The part of a vocabulary that turns tokens into bytes."""

    def piece(self, token: int) -> bytes: ...

    def control_piece(self, token: int) -> bytes: ...


class _Answer(Struct, eq=False):
    """An answer in progress: the request, the stream and index that get its events, and its text so far.

    `tokens` are those since the last delta.
    """

    request: GenerationRequest
    stream: EventStream
    index: int
    start_by_s: float | None
    text: Detokenizer
    tokens: list[int] = field(default_factory=list)

    @property
    def progress(self) -> Progress:
        return self.stream.progress[self.index]


class Answers:
    """Counts tokens in `stats` and keeps events until `collect`. Answers are known by their numbers."""

    def __init__(self, pieces: Pieces, stats: EngineStats) -> None:
        self._pieces = pieces
        self._stats = stats
        self._open: dict[int, _Answer] = {}
        self._numbers: dict[str, int] = {}
        self._last_number = 0
        self._outbox: Outbox = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, request: GenerationRequest, stream: EventStream, index: int, start_by_s: float | None) -> int:
        """Open an answer and return its number."""
        self._last_number += 1
        text = Detokenizer(request.stop, keeps_stop=request.keeps_stop)
        self._open[self._last_number] = _Answer(request, stream, index, start_by_s, text)
        self._numbers[request.id] = self._last_number
        return self._last_number

    def number_of(self, request_id: str) -> int | None:
        return self._numbers.get(request_id)

    def numbers(self) -> list[int]:
        return list(self._open)

    def command(self, number: int) -> Add:
        """Return the command that adds an open answer to a process."""
        answer = self._open[number]
        return Add(number=number, request=answer.request, start_by_s=answer.start_by_s)

    def step(self, step: Step) -> list[int]:
        """Apply a report. Returns the numbers of the answers that a stop text ended, which the process must finish."""
        stopped: list[int] = []
        for number, n_cached in step.admitted:
            if (answer := self._open.get(number)) is not None:
                if answer.progress.admitted_s is None:
                    answer.progress.admitted_s = step.admitted_s
                    if answer.request.prompt_logprobs is not None:
                        first = answer.request.prompt[0]
                        piece = self._pieces.control_piece(first)
                        self._emit(answer, PromptLogprobs((TokenLogprob(first, piece, None),)))
                answer.progress.cached_tokens = n_cached
        for number, logprobs in step.scored:
            if (answer := self._open.get(number)) is not None:
                self._emit(answer, PromptLogprobs(tuple(map(self._with_pieces, logprobs))))
        for at, (number, token) in enumerate(zip(step.numbers, step.tokens, strict=True)):
            # An answer that a stop text ended gets no more tokens, though the process may have drawn some.
            if (answer := self._open.get(number)) is not None:
                self._token(answer, token, step.logprobs[at] if step.logprobs else None, step.time_s)
                if answer.text.has_stopped():
                    self.end(number, "stop", step.time_s)
                    stopped.append(number)
        return stopped

    def ended(self, ending: Ending, time_s: float, retry_after_s: int) -> FinishReason | None:
        """Apply an ending. Returns the reason, or None if the answer had ended before.

        `retry_after_s` is for a request that waited too long for a slot.
        """
        answer = self._open.get(ending.number)
        if answer is None:
            return None
        answer.progress.cached_tokens = ending.n_cached
        error = None if ending.error is None else error_of(ending.error)
        if isinstance(error, QueueFull):
            error.retry_after_s = retry_after_s
        self.end(
            ending.number,
            ending.reason,
            time_s,
            error,
            n_generated=ending.n_generated,
            end_token=ending.end_token,
        )
        return ending.reason

    def end(
        self,
        number: int,
        reason: FinishReason,
        time_s: float,
        error: WorkerError | None = None,
        *,
        n_generated: int | None = None,
        end_token: int | None = None,
    ) -> None:
        """Send the remaining text and the only ending of an answer.

        `n_generated` is the number of drawn tokens, by default those of the text. `end_token` ended the answer.
        """
        answer = self._open.pop(number)
        del self._numbers[answer.request.id]
        progress = answer.progress
        rest = answer.text.flush()
        if (rest or answer.tokens) and reason in ("stop", "length"):
            self._emit_text(answer, rest)
        progress.ended_s = time_s
        n_completion = progress.completion_tokens if n_generated is None else n_generated
        usage = Usage(progress.prompt_tokens, n_completion, progress.cached_tokens)
        self._stats.prompt_tokens += usage.prompt_tokens
        self._stats.cached_tokens += usage.cached_tokens
        self._emit(answer, Finished(reason, usage, answer.text.stop, error, end_token))

    def collect(self) -> Outbox:
        """Return the events gathered since the last call."""
        outbox, self._outbox = self._outbox, {}
        return outbox

    def _token(self, answer: _Answer, token: int, logprob: Logprob | None, time_s: float) -> None:
        self._stats.completion_tokens += 1
        progress = answer.progress
        progress.completion_tokens += 1
        if progress.first_token_s is None:
            progress.first_token_s = time_s
        is_shown = token in answer.request.shown
        text = answer.text.push(self._pieces.control_piece(token) if is_shown else self._pieces.piece(token))
        answer.tokens.append(token)
        if text or logprob is not None:
            logprobs = () if logprob is None else (self._with_pieces(logprob),)
            self._emit_text(answer, text, logprobs)

    def _with_pieces(self, logprob: Logprob) -> TokenLogprob:
        piece = self._pieces.control_piece
        top = tuple((token, piece(token), value) for token, value in logprob.top)
        return TokenLogprob(logprob.token, piece(logprob.token), logprob.logprob, top)

    def _emit_text(self, answer: _Answer, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        tokens, answer.tokens = tuple(answer.tokens), []
        self._emit(answer, Delta(text, tokens, logprobs))

    def _emit(self, answer: _Answer, event: Event) -> None:
        self._outbox.setdefault(answer.stream, {}).setdefault(answer.index, []).append(event)
