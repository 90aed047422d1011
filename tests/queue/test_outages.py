"""Tests of the wrapped poll and post of the SDK during outages and after malformed answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from worker_gguf.queue.outages import patient_fetch, patient_post

PAUSES_S = (0.001, 0.002)
JOB: dict[str, Any] = {"id": "a", "input": {}}


class Answered(Exception):
    """What aiohttp raises for a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"http://secret-address/?key=1 {status}")
        self.status = status


class Platform:
    """Answers each call with the next of its answers: an exception, or what the call returns."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.posts: list[str] = []

    def next(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def fetch(self, session: Any, num_jobs: int) -> Any:
        return self.next()

    async def post(self, session: Any, url: str, data: str) -> None:
        self.posts.append(data)
        self.next()


def fetching(platform: Platform, running: set[str] | None = None) -> Any:
    return patient_fetch(platform.fetch, lambda job_id: job_id in (running or set()), PAUSES_S)


async def test_a_failed_poll_returns_nothing_and_the_next_one_returns_the_job() -> None:
    fetch = fetching(Platform(Answered(500), ConnectionError(), TimeoutError(), ValueError(), [JOB]))
    assert [await fetch(None, 1) for _ in range(5)] == [None, None, None, None, [JOB]]


async def test_polls_that_fail_pause_ever_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    platform = Platform(*[ConnectionError() for _ in range(8)])
    fetch = patient_fetch(platform.fetch, lambda job_id: False)
    for _ in range(8):
        await fetch(None, 1)
    assert 0.25 <= slept[0] <= 0.5
    assert 2.5 <= slept[-1] <= 5
    assert all(0 < seconds <= 5 for seconds in slept)


async def test_an_empty_answer_at_once_is_not_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert await fetching(Platform(None))(None, 1) is None
    assert slept == [0.25]


async def test_a_poll_with_only_running_jobs_pauses_like_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert await fetching(Platform([JOB]), {"a"})(None, 1) is None
    assert slept == [0.25]


async def test_too_many_requests_is_left_to_the_sdk() -> None:
    with pytest.raises(Answered):
        await fetching(Platform(Answered(429)))(None, 1)


async def test_jobs_without_an_id_and_jobs_that_run_here_are_left_alone() -> None:
    odd: list[object] = [None, "job", {}, {"id": None}, {"id": ""}, {"id": 5}, {"id": "running", "input": {}}, JOB]
    assert await fetching(Platform(odd), {"running"})(None, 8) == [JOB]


async def test_a_post_is_repeated_until_the_platform_is_back() -> None:
    platform = Platform(ConnectionError(), Answered(502), TimeoutError(), Answered(429), Answered(408), None)
    await patient_post(platform.post, 60, PAUSES_S)(None, "u", "x")
    assert platform.posts == ["x"] * 6


@pytest.mark.parametrize("status", [400, 401, 404, 413])
async def test_a_post_that_is_refused_is_not_repeated(status: int) -> None:
    platform = Platform(Answered(status))
    with pytest.raises(Answered):
        await patient_post(platform.post, 60, PAUSES_S)(None, "u", "x")
    assert len(platform.posts) == 1


async def test_a_post_that_cannot_be_sent_at_all_is_not_repeated() -> None:
    platform = Platform(UnicodeEncodeError("utf-8", "x", 0, 1, "no"))
    with pytest.raises(UnicodeEncodeError):
        await patient_post(platform.post, 60, PAUSES_S)(None, "u", "x")


async def test_a_post_ends_in_time_with_its_error() -> None:
    platform = Platform(*[ConnectionError() for _ in range(1000)])
    with pytest.raises(ConnectionError):
        await patient_post(platform.post, 0.02, PAUSES_S)(None, "u", "x")


async def test_a_stop_ends_a_post_that_is_repeated() -> None:
    platform = Platform(*[ConnectionError() for _ in range(1000)])
    task = asyncio.create_task(patient_post(platform.post, 60, (10, 10))(None, "u", "x"))
    while not platform.posts:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_log_names_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    from worker_gguf.observe import log

    log.configure("debug")
    await patient_post(Platform(Answered(500), None).post, 60, PAUSES_S)(None, "http://secret-address", "x")
    said = capsys.readouterr().err
    assert "the platform is away" in said
    assert "secret" not in said
