"""Submits requests for answers: prompt tokens, rendering, submission to the engine, reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.generation.engine import Engine
from worker_gguf.protocol.calls import Call, ChatCall, Options
from worker_gguf.protocol.rendering import Heading, Outline, Rendering
from worker_gguf.protocol.route import Generation
from worker_gguf.service.images import ImageLoader
from worker_gguf.service.prompts import Prepared, Prompts
from worker_gguf.service.reply import Reply
from worker_gguf.service.request import Request
from worker_gguf.service.threads import Threads
from worker_gguf.service.time_limit import deadline_s

__all__ = ["Generations"]


class Generations:
    """The answers of one model. Its methods can be called on several event loops."""

    def __init__(
        self, engine: Engine, prompts: Prompts, threads: Threads, images: ImageLoader, timeout_s: float | None
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._threads = threads
        self._images = images
        self._timeout_s = timeout_s

    async def submit(
        self,
        task: Generation,
        call: Call,
        request: Request,
        heading: Heading,
        on_ended: Callable[[], None] | None,
    ) -> tuple[Reply, Options]:
        """Submit a call to the engine. Nothing can fail after that, so an error means that the engine never got it."""

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
            prepared, rendering = await self._threads.run_if_long(request.body, prepare)
        else:
            prepared, rendering = await self._threads.run(prepare)
        options = prepared.options
        images = await self._images.load(call.images) if isinstance(call, ChatCall) else []
        account = request.account
        ends_s = deadline_s(account, options.timeout_s, self._timeout_s)
        events = self._engine.submit(*_requests(prepared, images, heading.id, ends_s), on_ended=on_ended)
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
        return Reply(events, rendering, request.route.dialect, account, options.names), options


def _requests(
    prepared: Prepared, images: Sequence[bytes], answer_id: str, deadline_s: float | None
) -> list[GenerationRequest]:
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
            images=tuple(images[place] for place in prepared.images),
            image_params=prepared.image_params,
        )
        for index in range(len(prompts) * options.n)
    ]


def _for_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Return the sampling parameters of one of `n` answers. Each has its own seed, so that the answers differ."""
    if choice == 0 or sampling.seed is None:
        return sampling
    # For llama.cpp, 2^32 - 1 means a random seed.
    return replace(sampling, seed=(sampling.seed + choice) % 0xFFFFFFFF)
