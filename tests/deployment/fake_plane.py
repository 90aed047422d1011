"""The endpoint's addresses of the stand-in: healthy at once, unless a test gives it another course."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["CHAT", "FakePlane"]

CHAT = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}]}


class FakePlane:
    """Each list is a course: its first entry is the next answer, and the last one stays."""

    def __init__(self) -> None:
        self.run: list[tuple[int, Any]] = [(200, {"id": "job-1", "status": "IN_QUEUE"})]
        self.status: list[tuple[int, Any]] = [
            (200, {"id": "job-1", "status": "COMPLETED", "delayTime": 31250, "executionTime": 410, "output": [CHAT]})
        ]
        self.health: list[tuple[int, Any]] = [(200, {"jobs": {}, "workers": {"ready": 1, "throttled": 0}})]
        self.ping: list[tuple[int, Any]] = [(200, {})]
        self.chat: list[tuple[int, Any]] = [(200, CHAT)]
        self.cancelled: list[str] = []

    def urls(self, base: str, type_: str) -> Mapping[str, str]:
        if type_ == "LOAD_BALANCER":
            return {"base": base, "health": f"{base}/ping"}
        names = {"run": "run", "runSync": "runsync", "purgeQueue": "purge-queue", "health": "health"}
        of_job = {name: f"{base}/{name}/{{job_id}}" for name in ("status", "stream", "cancel", "retry")}
        return {name: f"{base}/{path}" for name, path in names.items()} | of_job

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.split("/"):
            case "POST", ["run"]:
                assert set(body["input"]) == {"openai_route", "openai_input"}
                return _next(self.run)
            case "GET", ["status", "job-1"]:
                return _next(self.status)
            case "GET", ["health"]:
                return _next(self.health)
            case "GET", ["ping"]:
                return _next(self.ping)
            case "POST", ["cancel", job]:
                self.cancelled.append(job)
                return 200, {"id": job, "status": "CANCELLED"}
            case "POST", (["openai", "v1", "chat", "completions"] | ["v1", "chat", "completions"]):
                assert body["messages"]
                return _next(self.chat)
        return 404, {"error": f"no such path as {path}"}


def _next(course: list[tuple[int, Any]]) -> tuple[int, Any]:
    return course.pop(0) if len(course) > 1 else course[0]
