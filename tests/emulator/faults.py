"""Faults in front of the stand-in: wrong answers to the first polls for jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Answer", "bad_polls"]

Answer = tuple[int, str, bytes]
"""Status, content type, body. Status 0 hangs up without a word."""


def bad_polls(answers: Sequence[Answer], seen: list[Answer]) -> Callable[[ASGIApp], ASGIApp]:
    """Give these answers to the first polls, each once; `seen` gets those that were given."""

    def wrap(app: ASGIApp) -> ASGIApp:
        left = list(answers)

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if "/job-take" not in scope.get("path", "") or not left:
                await app(scope, receive, send)
                return
            answer = left.pop(0)
            seen.append(answer)
            status, kind, body = answer
            if not status:
                raise ConnectionAbortedError  # uvicorn closes the connection
            headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return faulty

    return wrap
