"""A worker without a model: known answers, and a record of the cancelled requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from worker_gguf.errors import InvalidRequest, NotFound, NotReady, QueueFull, WorkerError
from worker_gguf.generation.events import Finished, Usage
from worker_gguf.generation.progress import Progress
from worker_gguf.observe.account import Account
from worker_gguf.observe.status import Status
from worker_gguf.protocol.route import Generation, Inspection, Pooling
from worker_gguf.protocol.routes import MODEL as MODEL_ROUTE
from worker_gguf.protocol.routes import MODELS
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["SECRET_ANSWER", "SECRET_PROMPT", "FakeBackend"]

SECRET_PROMPT = "what-the-user-wrote-7d1f"
SECRET_ANSWER = "what-the-model-said-52ac"

MODEL = {"id": "fake", "object": "model", "created": 1, "owned_by": "worker-gguf"}


class Events:
    """A stream that records how it ended. `aclose` counts even before the first item."""

    def __init__(
        self, backend: FakeBackend, account: Account, n_events: int, gate: asyncio.Event | None, *, hangs_at_end: bool
    ) -> None:
        """With `hangs_at_end`, the stream does not end after its last event, until it is closed."""
        self._backend = backend
        self._account = account
        self._request_id = request_id = account.request_id
        self._hangs_at_end = hangs_at_end
        self._left = [event(i) for i in range(n_events)] + [b"data: [DONE]\n\n"]
        self._gate = gate
        self._over = False
        backend.running.add(request_id)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            if self._hangs_at_end:
                await asyncio.Event().wait()
            self._end(self._backend.finished)
            raise StopAsyncIteration
        if self._gate is not None and len(self._left) == (2 if self._backend.fail_after_gate else 1):
            await self._gate.wait()
        await asyncio.sleep(0)
        if self._backend.fail_mid_stream is not None and len(self._left) == 2:
            raise self._backend.fail_mid_stream
        if len(self._left) == 1:
            self._account.finished(0, Finished("stop", Usage(3, 2, 0)))
        return self._left.pop(0)

    async def aclose(self) -> None:
        self._end(self._backend.cancelled)

    def _end(self, into: list[str]) -> None:
        if not self._over:
            self._over = True
            into.append(self._request_id)
            self._backend.running.discard(self._request_id)
            self._backend.ended.set()


def event(index: int) -> bytes:
    text = f"{SECRET_ANSWER} {index}"
    delta = '{"index":0,"delta":{"content":"' + text + '"},"finish_reason":null}'
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"fake","choices":['
        + delta.encode()
        + b"]}\n\n"
    )


class FakeBackend:
    """Bodies say what is wanted: {"stream", "n_events", "hang", "hangs_at_end", "boom", "full", "echo"}."""

    def __init__(self, status: Status = "ready") -> None:
        self.phase: Status = status
        self.calls: list[tuple[str, str, object, str]] = []
        self.names: list[str | None] = []
        self.queries: list[dict[str, str]] = []
        self.running: set[str] = set()
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.ended = threading.Event()
        self.started = threading.Event()
        self.drained = threading.Event()
        self.ready = threading.Event()
        self._gates: list[asyncio.Event] = []
        self.fail_start: WorkerError | None = None
        self.fail_mid_stream: Exception | None = None
        self.fail_after_gate = False
        self.loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Let streams that hang go on. Call it on their loop."""
        for gate in self._gates:
            gate.set()

    def status(self) -> Status:
        return self.phase

    def health(self) -> dict[str, Any]:
        return {"phase": self.phase, "model": "fake"}

    async def wait_ready(self) -> None:
        while self.phase == "starting":
            await asyncio.sleep(0.005)
        if self.fail_start is not None:
            raise self.fail_start

    async def drain(self) -> None:
        self.phase = "draining"
        self.drained.set()
        while self.running:
            await asyncio.sleep(0.005)

    async def answer(self, request: Request) -> Answer | Stream:
        self.loop = asyncio.get_running_loop()
        route = request.route
        self.calls.append((route.method, route.path, request.body, request.account.request_id))
        self.names.append(request.match.name)
        self.queries.append(dict(request.query))
        if self.phase != "ready":
            raise NotReady("The model is loading. Try again in a moment.", retry_after_s=5)
        if isinstance(route.task, Generation):
            return await self._complete(request.body, request.account)
        if isinstance(route.task, Inspection | Pooling):
            return Answer({})
        if route is MODELS:
            return Answer({"object": "list", "data": [MODEL]})
        if route is MODEL_ROUTE and request.match.name != "fake":
            raise NotFound("There is no such model.", param="model")
        return Answer(MODEL)

    async def _complete(self, body: object, account: Account) -> Answer | Stream:
        if not isinstance(body, dict):
            raise InvalidRequest("The body must be a JSON object.")
        if "messages" not in body and "prompt" not in body:
            raise InvalidRequest("'messages' is missing.", param="messages")
        if "boom" in body:
            raise KeyError(SECRET_PROMPT)
        if "full" in body:
            raise QueueFull("The queue is full.", retry_after_s=3)
        ignored = tuple(str(body["ignored"]).split(", ")) if "ignored" in body else ()
        progress = Progress(account.started_s, 3, completion_tokens=2)
        account.submitted(
            (progress,), model="fake", answer_id="c", stream=bool(body.get("stream")), n=1, ignored=ignored
        )
        if body.get("stream"):
            gate = asyncio.Event() if body.get("hang") else None
            self._gates += [gate] if gate else []
            events = Events(
                self, account, int(body.get("n_events", 3)), gate, hangs_at_end=bool(body.get("hangs_at_end"))
            )
            self.started.set()
            return Stream(events, ignored)
        if body.get("hang"):
            await self._hang(account.request_id)
        return Answer(completion(), ignored)

    async def _hang(self, request_id: str) -> None:
        self.running.add(request_id)
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.running.discard(request_id)
            self.cancelled.append(request_id)
            self.ended.set()


def completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": SECRET_ANSWER}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
