"""Answers requests with one model: parses, renders the template, tokenises, submits to the engine, replies.

The HTTP and queue interfaces both use it. It does not import Starlette, uvicorn, the RunPod SDK or llama.cpp.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import NotFound, UnsupportedParameter
from worker_gguf.generation.engine import Engine
from worker_gguf.observe.account import Account
from worker_gguf.protocol.calls import (
    Call,
    ChatCall,
    CompletionCall,
    InfillCall,
    InspectionCall,
    Options,
    ReadyCall,
)
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.models import ModelCard, ModelNotServed, ModelStatus, SlotUse, card_meant
from worker_gguf.protocol.pooling.calls import PoolingCall
from worker_gguf.protocol.rendering import Heading, Outline, Rendering
from worker_gguf.protocol.route import Generation, Inspection, Listed, Listing, Pooling, Task
from worker_gguf.service.adapters import check_adapters, with_adapters
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.inspector import PromptInspector
from worker_gguf.service.pooling import collect_values, submit
from worker_gguf.service.pooling_prompts import PairTokenizer, PoolingPrompts
from worker_gguf.service.prompts import Prepared, Prompts
from worker_gguf.service.reply import Reply, collect
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["Service", "check_ability", "listed", "not_served", "parse", "ready", "slots_of", "time_limit_s"]

T = TypeVar("T")
AnyCall = Call | InspectionCall | PoolingCall

_DOES = {"embedding": "make vectors of texts", "rerank": "rank documents"}

# Bodies with more characters and items than this are parsed, rendered and tokenised in another thread, so that they do
# not block the event loop.
_INLINE_VALUES = 20_000


class Service:
    """Answers requests with one model. Its methods can be called on several event loops."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PairTokenizer,
        conversations: Conversations,
        card: ModelCard,
        *,
        defaults: Defaults,
        fingerprint: str,
        bos_text: str = "",
        timeout_s: float | None = None,
        pair_template: str | None = None,
    ) -> None:
        self.card = card
        self._engine = engine
        self._conversations = conversations
        self._prompts = Prompts(tokenizer, conversations, engine.limits.n_ctx, bos_text, defaults.strict)
        self._pooling_prompts = PoolingPrompts(tokenizer, engine.limits.n_ctx, pair_template)
        self._defaults = defaults
        self._fingerprint = fingerprint
        self._timeout_s = timeout_s

    def settle(self) -> None:
        """Wait until no thread examines a template any more. Call it before the vocabulary is freed."""
        self._conversations.settle()

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it."""
        task = request.route.task
        if isinstance(task, Listing):
            return Answer(task.answer(listed(request, [(self.card, None)], self._named, self._slots)))
        call = await parse(task, request.body, self._defaults)
        self._named(call.model)
        return await self.perform(call, request)

    async def perform(
        self, call: AnyCall, request: Request, on_ended: Callable[[], None] | None = None
    ) -> Answer | Stream:
        """Answer a parsed call. Raises the WorkerError that refuses or ends it.

        `on_ended` is called once: in another thread when the engine has ended the request, even after an error or a
        cancellation, or before this method returns or raises an error if the engine never got the request.
        """
        try:
            task = request.route.task
            match task, call:
                case _, ReadyCall():
                    check_ability(self.card, task)
                    answer = ready(call, self.card)
                case Generation(), ChatCall() | CompletionCall() | InfillCall():
                    return await self._generate(task, call, request, on_ended)
                case Pooling(), PoolingCall():
                    return await self._pool(task, call, request, on_ended)
                case Inspection(), InspectionCall():
                    answer = await self._inspect(task, call, request)
                case _:
                    raise TypeError(f"{type(call).__name__} is no call of {type(task).__name__}")
        except BaseException:
            if on_ended is not None:
                on_ended()
            raise
        if on_ended is not None:
            on_ended()
        return answer

    async def _inspect(self, task: Inspection, call: InspectionCall, request: Request) -> Answer:
        check_adapters(self.card, call)
        if call.chat is not None:
            await self._prompts.examined(call.chat)
        inspector = PromptInspector(self.card, self._prompts)
        body = await _off_loop_if_long(request.body, lambda: task.answer(call, inspector))
        return Answer(body, call.ignored)

    async def _pool(
        self, task: Pooling, call: PoolingCall, request: Request, on_ended: Callable[[], None] | None
    ) -> Answer:
        check_ability(self.card, task)
        heading, account = self._heading(task, self.card), request.account
        ranks = "rerank" in self.card.capabilities
        prompts = self._pooling_prompts
        inputs = await _off_loop_if_long(request.body, lambda: prompts.prepare(call, ranks=ranks))
        deadline_s = _deadline_s(account, time_limit_s(call.timeout_s, self._timeout_s))
        events = submit(self._engine, call, inputs, heading, deadline_s, on_ended)
        account.submitted(
            events.progress, model=heading.model, answer_id=heading.id, stream=False, n=1, ignored=call.ignored
        )
        pooled = await collect_values(events, inputs, heading, self.card, account)
        return Answer(await _off_loop_if_long(request.body, lambda: task.render(call, pooled)), call.ignored)

    async def _generate(
        self, task: Generation, call: Call, request: Request, on_ended: Callable[[], None] | None
    ) -> Answer | Stream:
        reply, options = await self._submit(task, call, request, on_ended)
        if options.stream:
            return Stream(reply, options.ignored)
        return Answer(await collect(reply), options.ignored)

    async def _submit(
        self, task: Generation, call: Call, request: Request, on_ended: Callable[[], None] | None
    ) -> tuple[Reply, Options]:
        """Submit a call to the engine. Nothing can fail after that, so an error means that the engine never got it."""
        check_ability(self.card, task)
        meant, call = with_adapters(self.card, call)
        heading = self._heading(task, meant)

        def prepare() -> tuple[Prepared, Rendering]:
            prepared = self._prompts.prepare(call)
            outline = Outline(
                heading,
                prepared.new_parser,
                prepared.prompts,
                self._prompts.repeated(call, prepared),
                started_s=request.account.started_s,
                load_s=request.account.model_wait_s or 0.0,
                is_cut=prepared.is_cut,
            )
            return prepared, task.render(call, outline)

        await self._prompts.examined(call)
        if self._prompts.is_quick(call):
            prepared, rendering = await _off_loop_if_long(request.body, prepare)
        else:
            prepared, rendering = await asyncio.to_thread(prepare)
        options = prepared.options
        account = request.account
        deadline_s = _deadline_s(account, time_limit_s(options.timeout_s, self._timeout_s))
        events = self._engine.submit(*self._requests(prepared, heading.id, deadline_s), on_ended=on_ended)
        rendering.progress = events.progress
        account.submitted(
            events.progress,
            rendering.tallies,
            model=heading.model,
            answer_id=heading.id,
            stream=options.stream,
            n=options.n,
            ignored=options.ignored,
        )
        return Reply(events, rendering, request.route.dialect, account), options

    def _requests(self, prepared: Prepared, answer_id: str, deadline_s: float | None) -> list[GenerationRequest]:
        prompts, options = prepared.prompts, prepared.options
        return [
            GenerationRequest(
                id=f"{answer_id}.{index}",
                prompt=prompts[index // options.n],
                sampling=_for_choice(options.sampling, index % options.n),
                max_tokens=options.max_tokens,
                min_tokens=options.min_tokens,
                stop=options.stop,
                top_logprobs=options.top_logprobs,
                # The rows of cached tokens are not there any more.
                cache_prompt=options.cache_prompt and not options.scores_prompt,
                banned_texts=options.banned_texts,
                stop_tokens=frozenset(options.stop_tokens),
                keeps_stop=options.keeps_stop,
                prompt_logprobs=options.top_logprobs if options.scores_prompt else None,
                deadline_s=deadline_s,
                priority=options.priority,
                constraint=options.constraint,
                thinking=prepared.thinking,
                shown=prepared.shown,
                lines=options.lines,
                adapters=options.adapters,
            )
            for index in range(len(prompts) * options.n)
        ]

    def _named(self, name: str | None) -> tuple[ModelCard, ModelStatus | None]:
        """Return the card of the model that goes by a name. Raises NotFound."""
        card = self.card if name is None else card_meant(self.card, name)
        if card is None:
            assert name is not None
            raise not_served(name, [own.id for own in self.card.with_adapters()])
        return card, None

    def _slots(self, name: str | None) -> SlotUse:
        """Return the use of the slots of the model that goes by a name. Raises NotFound."""
        self._named(name)
        return slots_of(self._engine.stats)

    def _heading(self, task: Generation | Pooling, card: ModelCard) -> Heading:
        answer_id = f"{task.id_prefix}{uuid.uuid4().hex}"
        return Heading(answer_id, int(time.time()), card.id, self._fingerprint)


async def parse(task: Generation | Inspection | Pooling, body: object, defaults: Defaults) -> AnyCall:
    """Parse the body of a route, in another thread if it is long. Raises InvalidRequest."""
    return await _off_loop_if_long(body, lambda: task.parse(body, defaults))


def ready(call: ReadyCall, card: ModelCard) -> Answer:
    """Return the answer to a call that needs no generation."""
    return Answer(call.answer(card), call.ignored)


def listed(
    request: Request,
    models: Sequence[tuple[ModelCard, ModelStatus | None]],
    named: Callable[[str | None], tuple[ModelCard, ModelStatus | None]],
    slots: Callable[[str | None], SlotUse],
) -> Listed:
    """Return what the answer of a route that lists models is made from. Each adapter counts as a model."""
    models = [(own, status) for card, status in models for own in card.with_adapters()]
    return Listed(models, named, request.match.name, request.query, request.body, slots)


def slots_of(stats: EngineStats) -> SlotUse:
    """Return the use of the slots of an engine."""
    return SlotUse(stats.n_slots, stats.busy_slots)


def time_limit_s(timeout_s: float | None, limit_s: float | None) -> float | None:
    """Return the seconds that a request may take from its arrival: the shorter of its own limit and the worker's."""
    return min((seconds for seconds in (timeout_s, limit_s) if seconds is not None), default=None)


def not_served(name: str, served: Iterable[str]) -> NotFound:
    """Return the error for the name of a model that this worker does not serve. `served` are the names it serves."""
    return ModelNotServed(name, served)


def check_ability(card: ModelCard, task: Task) -> None:
    """Raise UnsupportedParameter if a model cannot do what a route does."""
    match task:
        case Generation():
            needed: tuple[str, ...] = ("completion",)
            does = "generate text"
        case Pooling():
            needed, does = task.abilities, " or ".join(map(_DOES.__getitem__, task.abilities))
        case Inspection() | Listing():
            return
    if not set(needed) & set(card.capabilities):
        can = " and ".join(card.capabilities) or "nothing that this worker serves"
        message = f"The model {card.id!r} does not {does}; it can do: {can}. Use a model that can {does}."
        raise UnsupportedParameter(message, param="model")


def _deadline_s(account: Account, limit_s: float | None) -> float | None:
    return None if limit_s is None else account.started_s + limit_s


def _for_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Return the sampling parameters of one of `n` answers. Each has its own seed, so that the answers differ."""
    if choice == 0 or sampling.seed is None:
        return sampling
    # For llama.cpp, 2^32 - 1 means a random seed.
    return replace(sampling, seed=(sampling.seed + choice) % 0xFFFFFFFF)


async def _off_loop_if_long(body: object, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if _is_long(body) else work()


def _is_long(value: object) -> bool:
    """Return whether a body has more than _INLINE_VALUES characters and items. Stops counting there."""
    left = _INLINE_VALUES
    todo = [value]
    while todo and left > 0:
        item = todo.pop()
        left -= 1
        if isinstance(item, str):
            left -= len(item)
        elif isinstance(item, list | dict) and (left := left - len(item)) > 0:
            todo += (*item, *item.values()) if isinstance(item, dict) else item
    return left <= 0
