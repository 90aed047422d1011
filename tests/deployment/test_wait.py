"""The wait for the first answer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deployment.conftest import BALANCED, MANIFEST, Command
from tests.deployment.fake_plane import CHAT
from tests.deployment.fake_runpod import FakeRunpod

WAITING = (200, {"id": "job-1", "status": "IN_QUEUE"})


def workers(**counts: int) -> tuple[int, Any]:
    return 200, {"jobs": {}, "workers": counts}


def test_each_change_of_the_workers_is_reported_once(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.status = [WAITING] * 6 + runpod.plane.status
    runpod.plane.health = [
        workers(), workers(), workers(throttled=1), workers(initializing=1), workers(initializing=1), workers(running=1)
    ]  # fmt: skip
    ended = command.deploy()
    assert ended.code == 0
    said = [line.split("s  ")[-1] for line in ended.out.splitlines() if "worker" in line and " s  " in line]
    assert said == ["no worker yet", "workers: 1 throttled", "workers: 1 initializing", "workers: 1 running"]
    assert command.time.now_s == 6


def test_an_unchanged_state_is_reported_each_minute(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.status = [WAITING] * 130 + runpod.plane.status
    ended = command.deploy()
    assert ended.out.count("workers: 1 ready") == 3


def test_without_an_answer_it_ends_in_time_takes_its_question_back_and_says_where_to_look(
    command: Command, runpod: FakeRunpod
) -> None:
    runpod.plane.status, runpod.plane.health = [WAITING], [workers(throttled=2)]
    ended = command.deploy(MANIFEST, "--wait-s", "90")
    assert ended.code == 1
    assert command.time.now_s == 90
    assert "No correct answer within 90 s; last state: workers: 2 throttled." in ended.err
    assert "no free card of these pools: add gpu.pools" in ended.err
    assert "run the command again to continue waiting" in ended.err
    assert runpod.plane.cancelled == ["job-1"]
    assert "curl" not in ended.out


def test_a_job_that_failed_says_why(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.status = [
        (200, {"id": "job-1", "status": "FAILED", "error": "NotEnoughMemory: take\na smaller quant"})
    ]
    ended = command.deploy()
    assert ended.code == 1
    assert "ended as FAILED: NotEnoughMemory: take a smaller quant." in ended.err
    assert "See the logs of its workers" in ended.err


@pytest.mark.parametrize("output", [None, [], "hello", [{"text": "another worker"}], {"choices": []}])
def test_another_worker_is_not_taken_for_ours(command: Command, runpod: FakeRunpod, output: Any) -> None:
    runpod.plane.status = [(200, {"id": "job-1", "status": "COMPLETED", "output": output})]
    ended = command.deploy()
    assert ended.code == 1
    assert "Is the image a worker-gguf?" in ended.err


def test_hiccups_of_the_platform_are_waited_out(command: Command, runpod: FakeRunpod) -> None:
    plane = runpod.plane
    plane.run = [(404, {"error": "endpoint not found"}), (429, None), *plane.run]
    plane.status = [(502, None), (200, "garbage"), *plane.status]
    plane.health = [(500, None), (200, ["garbage"])]
    plane.chat = [(500, {"error": {"message": "no"}}), (200, CHAT)]
    assert command.deploy().code == 0


def test_an_endpoint_that_refuses_the_key_is_reported_immediately(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.run = [(401, None)]
    ended = command.deploy()
    assert ended.code == 1
    assert "Give the key access to the endpoint" in ended.err
    assert command.time.waits == []


def test_a_full_worker_is_retried_and_a_refusal_is_not(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.chat = [(429, {"error": {"message": "full"}}), (200, CHAT)]
    assert command.deploy(BALANCED).code == 0
    runpod.plane.chat = [(422, {"message": "no model"})]
    ended = command.deploy(BALANCED)
    assert ended.code == 1
    assert re.search(r"answered 422 to http\S+/v1/chat/completions: no model", ended.err)


def test_a_queue_endpoint_in_place_of_a_load_balancer_is_named(command: Command, runpod: FakeRunpod) -> None:
    runpod.plane.ping = [(400, {"error": "not allowed for QB API"})]
    ended = command.deploy(BALANCED)
    assert "The endpoint has a queue" in ended.err


def test_ctrl_c_takes_the_question_back(command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    runpod.plane.status = [WAITING]
    monkeypatch.setattr(command.time, "sleep", stop)
    ended = command.deploy()
    assert ended.code == 130
    assert "Finished steps are kept" in ended.err
    assert runpod.plane.cancelled == ["job-1"]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0", "soon"])
def test_a_wait_that_has_no_length_is_refused(command: Command, seconds: str) -> None:
    with pytest.raises(SystemExit):
        command.deploy(MANIFEST, "--wait-s", seconds)
