"""Requests to a worker, to several models or to a service, without HTTP or a queue."""

from __future__ import annotations

from typing import Protocol

from worker_gguf.observe.account import Account
from worker_gguf.protocol.lookup import find
from worker_gguf.service.request import Answer, Request, Stream

__all__ = ["ask", "request"]


class Answering(Protocol):
    async def answer(self, request: Request) -> Answer | Stream: ...


def request(method: str, path: str, body: object, account: Account | None = None) -> Request:
    return Request(find(method, path), body, account or Account("http", "req_test"))


async def ask(
    worker: Answering, method: str, path: str, body: object = None, account: Account | None = None
) -> Answer | Stream:
    return await worker.answer(request(method, path, body, account))
