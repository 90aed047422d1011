"""One request, straight through: validate, template, submit, render. Both front ends use it.

Knows nothing of Starlette, uvicorn, the RunPod SDK or llama.cpp.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from worker_gguf.engine.engine import Engine
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.errors import MethodNotAllowed, NotFound, WorkerError
from worker_gguf.observe.account import Account
from worker_gguf.observe.metrics import Metrics
from worker_gguf.protocol.bodies import LONGEST_TIMEOUT_S
from worker_gguf.protocol.calls import Defaults, Options, parse_chat, parse_completion
from worker_gguf.protocol.chat_rendering import ChatRendering
from worker_gguf.protocol.completion_rendering import CompletionRendering
from worker_gguf.protocol.models import ModelCard, model_body, models_body
from worker_gguf.protocol.rendering import Heading, Rendering
from worker_gguf.protocol.screening import ignored_header
from worker_gguf.service.prompts import Prompts, Tokenizer
from worker_gguf.service.reply import Reply, collect
from worker_gguf.template.chat_template import ChatTemplates

__all__ = ["ROUTES", "Answer", "Arrival", "Service", "Stream", "beside_loop", "no_such_route"]

T = TypeVar("T")

ROUTES = (("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"))

# A body with more characters and items is read, rendered and tokenised beside the event loop, so that /ping and streams
# go on.
_INLINE_VALUES = 20_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: an HTTP status, a JSON body, headers to add."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer. Each item of `events` is one or more whole server-sent events.

    Closing the iterator (`aclose`) cancels the generation; so does cancelling the task that reads it.
    """

    events: AsyncIterator[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a request came, how long it may take, and who is told of it: `ended` is called once, from another
    thread, when the engine is done with it; not if the call raises before the engine had it."""

    at_s: float
    limit_s: float | None
    account: Account | None = None
    ended: Callable[[], None] | None = None

    @classmethod
    def of(cls, body: object, limit_s: float | None, account: Account | None) -> Arrival:
        """Of a request that comes now; `limit_s` is the most it may take."""
        at_s = time.monotonic()
        asked: Any = body.get("timeout") if isinstance(body, dict) else None
        # Any other value is refused by whoever reads the whole body.
        is_time = isinstance(asked, int | float) and 0 < asked <= LONGEST_TIMEOUT_S
        seconds = min((s for s in (limit_s, asked if is_time else None) if s is not None), default=None)
        return cls(at_s, seconds, account)

    @property
    def deadline_s(self) -> float | None:
        return None if self.limit_s is None else self.at_s + self.limit_s


@dataclass(frozen=True, slots=True)
class _Order:
    """A request as it goes to the engine, and how it is answered."""

    requests: list[GenerationRequest]
    rendering: Rendering
    arrival: Arrival
    stream: bool
    ignored: tuple[str, ...]


class Service:
    """Answers requests with one model. Its methods are called on event loops, any number of them."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        templates: ChatTemplates,
        card: ModelCard,
        *,
        defaults: Defaults,
        metrics: Metrics,
        fingerprint: str,
        bos_text: str = "",
        timeout_s: float | None = None,
    ) -> None:
        self.card = card
        self._engine = engine
        self._prompts = Prompts(tokenizer, templates.default, engine.limits.n_ctx, bos_text)
        self._defaults = defaults
        self._metrics = metrics
        self._fingerprint = fingerprint
        self._timeout_s = timeout_s
        self._names = {name.lower() for name in (card.id, *card.aliases)}
        handlers: tuple[Callable[[object, Arrival], Awaitable[Answer | Stream]], ...]
        handlers = (self.chat, self.complete, self.models)
        self._handlers = dict(zip(ROUTES, handlers, strict=True))

    async def call(
        self,
        method: str,
        route: str,
        body: object,
        account: Account | None = None,
        *,
        arrival: Arrival | None = None,
    ) -> Answer | Stream:
        """Answer one request, or raise the WorkerError that refuses it. Its times and counts go into `account`.

        `arrival` stands in for `account` where the request has waited since it came.
        """
        handler = self._handlers.get((method, route))
        if handler is not None:
            return await handler(body, arrival or Arrival.of(body, self._timeout_s, account))
        if method == "GET" and route.startswith("/v1/models/"):
            return await self.model(route.removeprefix("/v1/models/"))
        raise no_such_route(method, route)

    async def models(self, _body: object, _arrival: Arrival) -> Answer:
        return Answer(200, models_body(self.card))

    async def model(self, name: str) -> Answer:
        self._check_model(name)
        return Answer(200, model_body(self.card))

    async def chat(self, body: object, arrival: Arrival) -> Answer | Stream:
        return await self._generate(await beside_loop(body, lambda body: self._read_chat(body, arrival)))

    async def complete(self, body: object, arrival: Arrival) -> Answer | Stream:
        return await self._generate(await beside_loop(body, lambda body: self._read_completion(body, arrival)))

    # --- from a body to what the engine takes ---------------------------------------------------------------------

    def _read_chat(self, body: object, arrival: Arrival) -> _Order:
        call = parse_chat(body, self._defaults)
        self._check_model(call.options.model)
        tokens = self._prompts.of_chat(call)
        rendering = ChatRendering(
            self._heading("chatcmpl"),
            n=call.options.n,
            include_usage=call.options.include_usage,
            logprobs=call.options.top_logprobs is not None,
        )
        return self._order([tokens], call.options, rendering, arrival)

    def _read_completion(self, body: object, arrival: Arrival) -> _Order:
        call = parse_completion(body, self._defaults)
        self._check_model(call.options.model)
        prompts = self._prompts.of_completion(call)
        rendering = CompletionRendering(
            self._heading("cmpl"),
            n_prompts=len(prompts),
            n=call.options.n,
            include_usage=call.options.include_usage,
            logprobs=call.options.top_logprobs is not None,
            echo=self._prompts.texts(call) if call.echo else None,
        )
        return self._order(prompts, call.options, rendering, arrival)

    def _order(
        self, prompts: list[tuple[int, ...]], options: Options, rendering: Rendering, arrival: Arrival
    ) -> _Order:
        requests = self._requests(prompts, options, rendering.heading.id, arrival.deadline_s)
        return _Order(requests, rendering, arrival, options.stream, options.ignored)

    # --- generation -----------------------------------------------------------------------------------------------

    async def _generate(self, order: _Order) -> Answer | Stream:
        self._metrics.count_ignored(order.ignored)
        headers = {"X-Ignored-Parameters": ignored_header(order.ignored)} if order.ignored else {}
        arrival = order.arrival
        events = self._engine.submit(*order.requests, on_ended=arrival.ended)
        if arrival.account is not None:
            heading, n = order.rendering.heading, order.rendering.n
            arrival.account.submitted(
                events.progress, model=heading.model, answer_id=heading.id, stream=order.stream, n=n
            )
        reply = Reply(events, order.rendering, self._metrics, arrival.at_s, arrival.account)
        if order.stream:
            return Stream(reply, headers)
        return Answer(200, await collect(reply), headers)

    def _requests(
        self, prompts: list[tuple[int, ...]], options: Options, answer_id: str, deadline_s: float | None
    ) -> list[GenerationRequest]:
        sampling = self._prompts.with_biases(options)
        return [
            GenerationRequest(
                id=f"{answer_id}.{index}",
                prompt=prompts[index // options.n],
                sampling=_for_choice(sampling, index % options.n),
                max_tokens=options.max_tokens,
                min_tokens=options.min_tokens,
                stop=options.stop,
                top_logprobs=options.top_logprobs,
                cache_prompt=options.cache_prompt,
                deadline_s=deadline_s,
            )
            for index in range(len(prompts) * options.n)
        ]

    # --- the model's name -----------------------------------------------------------------------------------------

    def _check_model(self, name: str | None) -> None:
        if name is not None and name.lower() not in self._names:
            raise NotFound(
                f"The model {name[:200]!r} is not served here. This worker serves {self.card.id!r}.", param="model"
            )

    def _heading(self, prefix: str) -> Heading:
        return Heading(f"{prefix}-{uuid.uuid4().hex}", int(time.time()), self.card.id, self._fingerprint)


def _for_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Each of `n` answers has a seed of its own, so that one seed does not give the same answer n times."""
    if choice == 0 or sampling.seed is None:
        return sampling
    # llama.cpp takes 2^32 - 1 for "draw one".
    return replace(sampling, seed=(sampling.seed + choice) % 0xFFFFFFFF)


def no_such_route(method: str, route: str) -> WorkerError:
    others = [allowed for allowed, known in ROUTES if known == route]
    if others:
        return MethodNotAllowed(f"{method} is not for this route. Use {others[0]}.")
    known = ", ".join(sorted({known for _, known in ROUTES}))
    return NotFound(f"There is no such route. This worker answers {known}.")


async def beside_loop(body: object, read: Callable[[object], T]) -> T:
    """Read a body, in another thread if it is long."""
    return await asyncio.to_thread(read, body) if _is_long(body) else read(body)


def _is_long(value: object) -> bool:
    """More than _INLINE_VALUES characters and items in all? Looks at no more of them than that."""
    left = _INLINE_VALUES
    todo = [value]
    while todo and left > 0:
        item = todo.pop()
        left -= 1
        if isinstance(item, str):
            left -= len(item)
        elif isinstance(item, list | dict) and (left := left - len(item)) > 0:
            todo += item.values() if isinstance(item, dict) else item
    return left <= 0
