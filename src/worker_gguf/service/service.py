"""Answers requests with one model: parses, renders the template, tokenises, submits to the engine, replies.

The HTTP and queue interfaces both use it. It does not import Starlette, uvicorn, the RunPod SDK or llama.cpp.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.errors import NotFound, UnsupportedParameter
from worker_gguf.generation.engine import Engine
from worker_gguf.observe.account import Account
from worker_gguf.protocol.calls import Call, Defaults, Options
from worker_gguf.protocol.models import ModelCard, model_body, models_body
from worker_gguf.protocol.rendering import Heading, Rendering
from worker_gguf.protocol.routes import MODELS, Generation
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.prompts import Prepared, Prompts, Tokenizer
from worker_gguf.service.reply import Reply, collect
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["Service", "check_generates", "not_served", "parse", "time_limit_s"]

T = TypeVar("T")

# Bodies with more characters and items than this are parsed, rendered and tokenised in another thread, so that they do
# not block the event loop.
_INLINE_VALUES = 20_000


class Service:
    """Answers requests with one model. Its methods can be called on several event loops."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        conversations: Conversations,
        card: ModelCard,
        *,
        defaults: Defaults,
        fingerprint: str,
        bos_text: str = "",
        timeout_s: float | None = None,
    ) -> None:
        self.card = card
        self._engine = engine
        self._conversations = conversations
        self._prompts = Prompts(tokenizer, conversations, engine.limits.n_ctx, bos_text, defaults.strict)
        self._defaults = defaults
        self._fingerprint = fingerprint
        self._timeout_s = timeout_s
        self._names = {name.lower() for name in (card.id, *card.aliases)}

    def settle(self) -> None:
        """Wait until no thread examines a template any more. Call it before the vocabulary is freed."""
        self._conversations.settle()

    async def answer(self, request: Request) -> Answer | Stream:
        """Answer one request. Raises the WorkerError that refuses it."""
        generation = request.route.generation
        if generation is not None:
            call = await parse(generation, request.body, self._defaults)
            self._check_model(call.options.model)
            return await self.generate(call, request)
        if request.route is MODELS:
            return Answer(models_body([(self.card, None)]))
        self._check_model(request.match.name)
        return Answer(model_body(self.card))

    async def generate(
        self, call: Call, request: Request, on_ended: Callable[[], None] | None = None
    ) -> Answer | Stream:
        """Generate the answer to a parsed call. Raises the WorkerError that refuses or ends it.

        `on_ended` is called once: in another thread when the engine has ended the request, even after an error or a
        cancellation, or before this method raises an error if the engine never got the request.
        """
        try:
            reply, options = await self._submit(call, request, on_ended)
        except BaseException:
            if on_ended is not None:
                on_ended()
            raise
        if options.stream:
            return Stream(reply, options.ignored)
        return Answer(await collect(reply), options.ignored)

    async def _submit(self, call: Call, request: Request, on_ended: Callable[[], None] | None) -> tuple[Reply, Options]:
        """Submit a call to the engine. Nothing can fail after that, so an error means that the engine never got it."""
        generation = request.route.generation
        assert generation is not None
        check_generates(self.card)
        heading = self._heading(generation)

        def prepare() -> tuple[Prepared, Rendering]:
            prepared = self._prompts.prepare(call)
            ids = prepared.prompts if prepared.options.shows_ids else None
            return prepared, generation.render(call, heading, self._prompts.echoed(call), prepared.new_parser, ids)

        await self._prompts.examined(call)
        if self._prompts.is_quick(call):
            prepared, rendering = await _off_loop_if_long(request.body, prepare)
        else:
            prepared, rendering = await asyncio.to_thread(prepare)
        options = prepared.options
        account = request.account
        deadline_s = _deadline_s(account, time_limit_s(options, self._timeout_s))
        events = self._engine.submit(*self._requests(prepared, heading.id, deadline_s), on_ended=on_ended)
        account.submitted(
            events.progress,
            rendering.tallies,
            model=heading.model,
            answer_id=heading.id,
            stream=options.stream,
            n=options.n,
            ignored=options.ignored,
        )
        return Reply(events, rendering, request.route.errors, account), options

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
            )
            for index in range(len(prompts) * options.n)
        ]

    def _check_model(self, name: str | None) -> None:
        if name is not None and name.lower() not in self._names:
            raise not_served(name, [self.card.id])

    def _heading(self, generation: Generation) -> Heading:
        answer_id = f"{generation.id_prefix}-{uuid.uuid4().hex}"
        return Heading(answer_id, int(time.time()), self.card.id, self._fingerprint)


async def parse(generation: Generation, body: object, defaults: Defaults) -> Call:
    """Parse the body of a route that generates, in another thread if it is long. Raises InvalidRequest."""
    return await _off_loop_if_long(body, lambda: generation.parse(body, defaults))


def time_limit_s(options: Options, limit_s: float | None) -> float | None:
    """Return the seconds that a request may take from its arrival: the shorter of its own limit and the worker's."""
    return min((seconds for seconds in (options.timeout_s, limit_s) if seconds is not None), default=None)


def not_served(name: str, served: Iterable[str]) -> NotFound:
    """Return the error for the name of a model that this worker does not serve. `served` are the names it serves."""
    names = ", ".join(map(repr, served))
    return NotFound(f"The model {name[:200]!r} is not served here. This worker serves {names}.", param="model")


def check_generates(card: ModelCard) -> None:
    """Raise UnsupportedParameter if a model does not generate text."""
    if not card.generates:
        can = " and ".join(card.capabilities) or "nothing that this worker serves"
        message = f"The model {card.id!r} does not generate text; it can do: {can}. Use a model that generates text."
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
