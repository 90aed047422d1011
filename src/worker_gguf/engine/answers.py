"""The answers in progress: turns the scheduler's updates into events for the callers. Owned by the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker_gguf.engine.batch import Batch, Open
from worker_gguf.engine.commands import Address
from worker_gguf.engine.detokenizer import Detokenizer
from worker_gguf.engine.events import Delta, Event, Finished, FinishReason, Usage
from worker_gguf.engine.progress import Progress
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.sequence import Sequence
from worker_gguf.engine.stats import EngineStats
from worker_gguf.engine.stream import Outbox
from worker_gguf.engine.updates import Ended, Token
from worker_gguf.errors import WorkerError

__all__ = ["Answers"]


@dataclass(slots=True)
class _Answer:
    """An answer in progress: the address of its events and its text so far.

    `n_past_stop` counts the tokens that were drawn after a stop text, in the step that completed it.
    """

    address: Address
    text: Detokenizer
    progress: Progress
    n_past_stop: int = 0


class Answers:
    """Counts tokens in `stats` and keeps events until `collect`."""

    def __init__(self, piece: Callable[[int], bytes], stats: EngineStats, clock: Callable[[], float]) -> None:
        self._piece = piece
        self._stats = stats
        self._clock = clock
        self._open: dict[str, _Answer] = {}
        self._outbox: Outbox = {}

    def open(self, request: GenerationRequest, address: Address) -> None:
        self._open[request.id] = _Answer(address, Detokenizer(request.stop), address.progress)

    def refuse(self, request: GenerationRequest, address: Address, error: WorkerError) -> None:
        """End a request that was never opened."""
        address.progress.ended_s = self._clock()
        self._emit(address, Finished("error", Usage(len(request.prompt), 0, 0), error=error))

    def addresses(self) -> list[Address]:
        """Return the addresses of all open answers. Callable from any thread."""
        return [answer.address for answer in list(self._open.values())]

    def admitted(self, batch: Batch) -> None:
        """Record when each sequence of the batch first got a slot. A sequence keeps the time of its first slot."""
        now_s = self._clock()
        for operation in batch.operations:
            answer = self._open.get(operation.request.id) if isinstance(operation, Open) else None
            if answer is not None and answer.progress.admitted_s is None:
                answer.progress.admitted_s = now_s

    def token(self, update: Token) -> bool:
        """Add a token to its answer. Returns True if it completes a stop text, so that the sequence must end."""
        answer = self._open.get(update.sequence.id)
        if answer is None:
            return False
        if answer.text.has_stopped():
            answer.n_past_stop += 1
            return False
        self._stats.completion_tokens += 1
        progress = answer.progress
        progress.completion_tokens += 1
        if progress.first_token_s is None:
            progress.first_token_s = self._clock()
            progress.cached_tokens = update.sequence.n_cached or 0
        text = answer.text.push(self._piece(update.token))
        if text or update.logprob is not None:
            logprobs = () if update.logprob is None else (update.logprob,)
            self._emit(answer.address, Delta(text, (update.token,), logprobs))
        return answer.text.has_stopped()

    def ended(self, update: Ended) -> FinishReason | None:
        """Send the remaining text and the ending. Returns the reason, or None if the answer had ended before."""
        answer = self._open.pop(update.sequence.id, None)
        if answer is None:
            return None
        rest = answer.text.flush()
        if rest and update.reason in ("stop", "length"):
            self._emit(answer.address, Delta(rest, ()))
        stop = answer.text.stop
        reason: FinishReason = "stop" if stop is not None and update.reason == "length" else update.reason
        usage = _usage(update.sequence, answer.n_past_stop)
        answer.progress.ended_s = self._clock()
        answer.progress.cached_tokens = usage.cached_tokens
        self._stats.prompt_tokens += usage.prompt_tokens
        self._stats.cached_tokens += usage.cached_tokens
        self._emit(answer.address, Finished(reason, usage, stop, update.error))
        return reason

    def collect(self) -> Outbox:
        """Return the events gathered since the last call."""
        outbox, self._outbox = self._outbox, {}
        return outbox

    def _emit(self, address: Address, event: Event) -> None:
        self._outbox.setdefault(address.stream, {}).setdefault(address.index, []).append(event)


def _usage(sequence: Sequence, n_past_stop: int) -> Usage:
    return Usage(sequence.n_prompt, sequence.n_generated - n_past_stop, sequence.n_cached or 0)
