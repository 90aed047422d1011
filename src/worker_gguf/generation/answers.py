"""The answers in progress, and the inputs that are pooled: turns the reports of an engine process into events.

Used under the lock of its engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.request import GenerationRequest, PoolingRequest
from worker_gguf.engine.stats import EngineStats
from worker_gguf.engine.updates import FinishReason
from worker_gguf.errors import QueueFull, WorkerError
from worker_gguf.generation.detokenizer import Detokenizer
from worker_gguf.generation.events import Delta, Event, Finished, Pooled, PromptLogprobs, TokenLogprob, Usage
from worker_gguf.generation.lines import LineWatch
from worker_gguf.generation.progress import Progress
from worker_gguf.generation.stream import EventStream, Outbox
from worker_gguf.link.errors import error_of
from worker_gguf.link.messages import Add, Ending, Pool, Step

__all__ = ["Answers", "Pieces"]


class Pieces(Protocol):
    """The part of a vocabulary that turns tokens into bytes."""

    def piece(self, token: int) -> bytes: ...

    def control_piece(self, token: int) -> bytes: ...


class _Answer(Struct, eq=False):
    """An answer in progress: its request, the stream and index that get its events, and its text so far.

    `tokens` are those since the last delta. With `scores_prompt`, the log-probabilities of the prompt are wanted. An
    input that is pooled has no text.
    """

    request: GenerationRequest | PoolingRequest
    stream: EventStream
    index: int
    start_by_s: float | None
    text: Detokenizer
    shown: frozenset[int] = frozenset()
    scores_prompt: bool = False
    tokens: list[int] = field(default_factory=list)
    lines: LineWatch | None = None

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
        self._n_inputs: Counter[EventStream] = Counter()
        self._n_freed = 0
        self._outbox: Outbox = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self, request: GenerationRequest | PoolingRequest, stream: EventStream, index: int, start_by_s: float | None
    ) -> int:
        """Open an answer and return its number. All inputs of a stream take one place, and each answer one."""
        self._last_number = number = self._last_number + 1
        if isinstance(request, PoolingRequest):
            answer = _Answer(request, stream, index, start_by_s, Detokenizer())
            self._n_inputs[stream] += 1
        else:
            answer = _Answer(
                request,
                stream,
                index,
                start_by_s,
                Detokenizer(request.stop, keeps_stop=request.keeps_stop),
                shown=request.shown,
                scores_prompt=request.prompt_logprobs is not None,
                lines=None if request.lines is None else LineWatch(request.lines),
            )
        self._open[number] = answer
        self._numbers[request.id] = number
        return number

    def number_of(self, request_id: str) -> int | None:
        return self._numbers.get(request_id)

    def numbers(self) -> list[int]:
        return list(self._open)

    def commands(self, numbers: Iterable[int]) -> list[Add | Pool]:
        """Return the commands that add open answers to a process: one for each, but one for all inputs of a stream.

        A process gets each of them once, so images are let go.
        """
        commands: list[Add | Pool] = []
        pools: dict[EventStream, Pool] = {}
        for number in numbers:
            answer = self._open[number]
            request, start_by_s = answer.request, answer.start_by_s
            if isinstance(request, GenerationRequest):
                commands.append(Add(number=number, request=request, start_by_s=start_by_s))
                if request.images:
                    answer.request = replace(request, images=())
                continue
            if answer.stream not in pools:
                # The numbers of a group follow each other, and its first one stands for it.
                pools[answer.stream] = pool = Pool([], [], number - answer.index, start_by_s)
                commands.append(pool)
            pools[answer.stream].numbers.append(number)
            pools[answer.stream].requests.append(request)
        return commands

    def step(self, step: Step) -> list[int]:
        """Apply a report.

        Returns the numbers of the answers that a stop text or a line ended, which the process must finish.
        """
        stopped: list[int] = []
        for number, n_prompt in step.seen:
            if (answer := self._open.get(number)) is not None:
                answer.progress.prompt_tokens = n_prompt
        for number, n_cached in step.admitted:
            if (answer := self._open.get(number)) is not None:
                if answer.progress.admitted_s is None:
                    answer.progress.admitted_s = step.admitted_s
                    if answer.scores_prompt:
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
                if answer.text.has_stopped() or (answer.lines is not None and answer.lines.is_over):
                    self.end(number, "stop", step.time_s)
                    stopped.append(number)
        return stopped

    def pooled(self, step: Step) -> list[int]:
        """Apply the numbers of inputs in a report. Returns the numbers of the answers that they ended."""
        ended = [(number, values) for number, values in step.pooled if number in self._open]
        for number, values in ended:
            self._emit(self._open[number], Pooled(values))
            self.end(number, "stop", step.time_s)
        return [number for number, _ in ended]

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
        self._free_place(answer)
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

    def take_freed(self) -> int:
        """Return the number of places that have become free since the last call."""
        n_freed, self._n_freed = self._n_freed, 0
        return n_freed

    def _free_place(self, answer: _Answer) -> None:
        if isinstance(answer.request, PoolingRequest):
            self._n_inputs[answer.stream] -= 1
            if self._n_inputs[answer.stream]:
                return
            del self._n_inputs[answer.stream]
        self._n_freed += 1

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
        is_shown = token in answer.shown
        text = answer.text.push(self._pieces.control_piece(token) if is_shown else self._pieces.piece(token))
        if answer.lines is not None:
            text = answer.lines.read(text, time_s - progress.first_token_s)
            if answer.lines.is_over:
                answer.text.drop()
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
