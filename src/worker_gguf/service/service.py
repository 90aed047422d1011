"""Answers requests with one model: parses them, and performs each by the task of its route.

The HTTP and queue interfaces both use it. It does not import Starlette, uvicorn, the RunPod SDK or llama.cpp.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from worker_gguf.engine.stats import EngineStats
from worker_gguf.errors import NotFound, UnsupportedParameter
from worker_gguf.generation.engine import Engine
from worker_gguf.protocol.calls import (
    Call,
    ChatCall,
    CompletionCall,
    InfillCall,
    InspectionCall,
    ReadyCall,
)
from worker_gguf.protocol.defaults import Defaults
from worker_gguf.protocol.models import ModelCard, ModelNotServed, ModelStatus, SlotUse, card_meant
from worker_gguf.protocol.pooling.calls import PoolingCall
from worker_gguf.protocol.rendering import Heading, JsonBody
from worker_gguf.protocol.route import Generation, Inspection, Listed, Listing, Pooling, Task
from worker_gguf.protocol.screening import unknown_names
from worker_gguf.protocol.wellformed import read_object
from worker_gguf.service.adapters import check_adapters, with_adapters
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.generations import Generations
from worker_gguf.service.images import ImageLoader, for_model
from worker_gguf.service.prompts import Prompts
from worker_gguf.service.reply import collect
from worker_gguf.service.request import Answer, Request, Stream
from worker_gguf.service.threads import Threads, off_loop_if_long

if TYPE_CHECKING:
    from worker_gguf.service.pooling import Poolings
    from worker_gguf.service.pooling_prompts import PairForm, PairTokenizer

__all__ = [
    "Service",
    "check_ability",
    "is_able",
    "list_models",
    "none_able",
    "not_served",
    "parse",
    "ready",
    "slots_of",
]

AnyCall = Call | InspectionCall | PoolingCall

_DOES = {"completion": "generate text", "embedding": "make vectors of texts", "rerank": "rank documents"}


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
        pair_form: PairForm | None = None,
        images: ImageLoader | None = None,
    ) -> None:
        self.card = card
        self._engine = engine
        self._tokenizer = tokenizer
        self._conversations = conversations
        self._prompts = Prompts(tokenizer, conversations, engine.limits.n_ctx, bos_text, defaults.strict)
        self._threads = Threads()
        self._generations = Generations(engine, self._prompts, self._threads, images or ImageLoader(), timeout_s)
        self._pair_form = pair_form
        self._timeout_s = timeout_s
        self._defaults = defaults
        self._fingerprint = fingerprint

    def settle(self) -> None:
        """Wait until no thread uses the vocabulary any more. Call it before that is freed."""
        self._threads.settle()
        self._conversations.settle()

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it."""
        task = request.route.task
        if isinstance(task, Listing):
            return list_models(task, request, [(self.card, None)], self._named, self._slots, self._defaults)
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
        task = request.route.task
        match task, call:
            case Generation(), ChatCall() | CompletionCall() | InfillCall():
                with _ending_on_error(on_ended):
                    check_ability(self.card, task)
                    meant, call = with_adapters(self.card, for_model(call, self.card))
                    heading = self._heading(task, meant)
                    reply, options = await self._generations.submit(task, call, request, heading, on_ended)
                if options.stream:
                    return Stream(reply, options.ignored)
                return Answer(await collect(reply), options.ignored)
            case Pooling(), PoolingCall():
                with _ending_on_error(on_ended):
                    check_ability(self.card, task)
                    heading = self._heading(task, self.card)
                    pooled = await self._poolings.submit(task, call, request, heading, on_ended)
                return Answer(await self._poolings.answer(task, call, pooled), call.ignored)
        try:
            if not isinstance(call, ReadyCall) or call.needs_model:
                check_ability(self.card, task)
            match task, call:
                case _, ReadyCall():
                    answer = ready(call, self.card, request)
                case Inspection(), InspectionCall():
                    answer = _noted(request, await self._inspect(task, call, request), call.ignored)
                case _:
                    raise TypeError(f"{type(call).__name__} is no call of {type(task).__name__}")
        finally:
            if on_ended is not None:
                on_ended()
        return answer

    @cached_property
    def _poolings(self) -> Poolings:
        """Only few models make vectors or scores, so the modules for them are imported with the first request."""
        from worker_gguf.service.pooling import Poolings
        from worker_gguf.service.pooling_prompts import PairForm, PoolingPrompts

        prompts = PoolingPrompts(self._tokenizer, self._engine.limits.n_ctx, self._pair_form or PairForm())
        return Poolings(self._engine, prompts, self.card, self._threads, self._timeout_s)

    async def _inspect(self, task: Inspection, call: InspectionCall, request: Request) -> JsonBody:
        from worker_gguf.service.inspector import PromptInspector  # few workers are asked

        check_adapters(self.card, call)
        if call.chat is not None:
            call = replace(call, chat=for_model(call.chat, self.card))
            assert call.chat is not None
            await self._prompts.examined(call.chat)
        inspector = PromptInspector(self.card, self._prompts)
        return await self._threads.run_if_long(request.body, lambda: task.answer(call, inspector))

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
    return await off_loop_if_long(body, lambda: task.parse(body, defaults))


def ready(call: ReadyCall, card: ModelCard, request: Request) -> Answer:
    """Return the answer to a call that needs no generation."""
    return _noted(request, call.answer(card), call.ignored)


def list_models(
    task: Listing,
    request: Request,
    models: Sequence[tuple[ModelCard, ModelStatus | None]],
    named: Callable[[str | None], tuple[ModelCard, ModelStatus | None]],
    slots: Callable[[str | None], SlotUse],
    defaults: Defaults,
) -> Answer:
    """Answer a route that lists models. Each adapter counts as a model. Raises RequestErrors."""
    models = [(own, status) for card, status in models for own in card.with_adapters()]
    ignored = () if task.body is None else unknown_names(task.body, read_object(request.body), defaults)
    body = task.answer(Listed(models, named, request.match.name, request.query, request.body, slots))
    return _noted(request, body, ignored)


def _noted(request: Request, body: JsonBody, ignored: tuple[str, ...]) -> Answer:
    """Return an answer that never was in the engine, whose submission notes ignored parameters otherwise."""
    request.account.ignored += ignored
    return Answer(body, ignored)


def slots_of(stats: EngineStats) -> SlotUse:
    """Return the use of the slots of an engine."""
    return SlotUse(stats.n_slots, stats.busy_slots)


def not_served(name: str, served: Iterable[str]) -> NotFound:
    """Return the error for the name of a model that this worker does not serve. `served` are the names it serves."""
    return ModelNotServed(name, served)


def check_ability(card: ModelCard, task: Task) -> None:
    """Raise UnsupportedParameter if a model cannot do what a route does."""
    if not is_able(card, task):
        does = _does(task)
        can = " and ".join(card.capabilities) or "nothing that this worker serves"
        message = f"The model {card.id!r} does not {does}; it can do: {can}. Use a model that can {does}."
        raise UnsupportedParameter(message, param="model")


def none_able(cards: Iterable[ModelCard], task: Task) -> UnsupportedParameter:
    """Return the error for a route whose work none of the served models can do."""
    can = ", ".join(f"{card.id!r} ({' and '.join(card.capabilities)})" for card in cards)
    return UnsupportedParameter(f"No model of this worker can {_does(task)}. Its models can do: {can}.", param="model")


def is_able(card: ModelCard, task: Task) -> bool:
    """Return whether a model can do what a route does."""
    needed = _abilities(task)
    return not needed or not set(needed).isdisjoint(card.capabilities)


def _does(task: Task) -> str:
    return " or ".join(_DOES[ability] for ability in _abilities(task))


def _abilities(task: Task) -> tuple[str, ...]:
    """Return the abilities of which a model needs one."""
    match task:
        case Generation():
            return ("completion",)
        case Pooling() | Inspection():
            return task.abilities
        case Listing():
            return ()


@contextmanager
def _ending_on_error(on_ended: Callable[[], None] | None) -> Iterator[None]:
    """Call `on_ended` if the block raises an error."""
    try:
        yield
    except BaseException:
        if on_ended is not None:
            on_ended()
        raise
