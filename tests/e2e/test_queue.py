"""Tests of a real worker process with RunPod's real SDK, against the stand-in for the platform's queue."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import emulator
from worker_gguf.embedded import published_prompts
from worker_gguf.http.binding import bind
from worker_gguf.http.server import ServerThread

PROMPT = next(prompt for prompt in published_prompts() if not prompt.tools)
SECRET = "my grandmother's maiden name is Quillfeather"


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("queue") / "worker.log"


@pytest.fixture(scope="module")
def platform(log_path: Path) -> Iterator[emulator.RunningEmulator]:
    with emulator.start() as running, log_path.open("wb") as log:
        own = {"MODEL": "embedded", "MODE": "auto", "N_PARALLEL": "4", "N_THREADS": "1", "N_CTX": "1024"}
        own["BATCH_PRIVATE_URLS"] = "true"  # the files of a test are on this machine
        environment = {**os.environ, **running.worker_environment(), **own}
        worker = subprocess.Popen([sys.executable, "-m", "worker_gguf"], env=environment, stdout=log, stderr=log)
        yield running
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log_path.read_text()


@pytest.fixture
def ask(platform: emulator.RunningEmulator, log_path: Path) -> Any:
    """Run a job to its end; its status document."""

    def run(job_input: Any) -> dict[str, Any]:
        with httpx.Client(timeout=180) as client:
            job: dict[str, Any] = client.post(
                f"{platform.endpoint_url}/runsync", params={"wait": 120_000}, json={"input": job_input}
            ).json()
        assert job["status"] in ("COMPLETED", "FAILED"), log_path.read_text()
        return job

    return run


def chat(**changes: object) -> dict[str, Any]:
    return {"messages": list(PROMPT.messages), "temperature": 0, "max_tokens": PROMPT.max_tokens, **changes}


def content(job: dict[str, Any]) -> str:
    (answer,) = job["output"]
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_openai_passthrough_answers_as_published(ask: Any) -> None:
    job = ask({"openai_route": "/v1/chat/completions", "openai_input": chat()})
    assert job["status"] == "COMPLETED"
    assert content(job) == PROMPT.expected


def test_the_routes_of_llama_server_work_in_both_forms_of_a_job(ask: Any) -> None:
    body = {"prompt": ["One, two,", [1, 2]], "n_predict": 2, "temperature": 0, "return_progress": True}
    (answers,) = ask({"openai_route": "/completion", "openai_input": body})["output"]
    assert [answer["tokens_predicted"] for answer in answers] == [2, 2]
    streamed = ask({"route": "/completion", "body": body | {"prompt": "One, two,", "stream": True}})["output"]
    *_, last = "".join(streamed).strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["content"] == ""
    (tokens,) = ask({"route": "/tokenize", "body": {"content": "One", "x": 1}})["output"]
    assert tokens["x_ignored_parameters"] == ["x"]
    (properties,) = ask({"route": "/props"})["output"]
    assert properties["total_slots"] == 4
    (named,) = ask({"route": "/props?model=embedded"})["output"]
    assert named == properties
    assert json.loads(ask({"route": "/props?model=zz"})["error"])["error"]["code"] == 404
    failed = ask({"route": "/completion", "body": {"prompt": 5}})
    assert failed["status"] == "FAILED"
    assert json.loads(failed["error"])["error"]["code"] == 400


def test_a_job_calls_tools_and_keeps_a_schema(ask: Any) -> None:
    calling = next(prompt for prompt in published_prompts() if prompt.name == "tool-call-1")
    body = {"messages": list(calling.messages), "tools": list(calling.tools), "temperature": 0, "max_tokens": 60}
    for job_input in (
        {"openai_route": "/v1/chat/completions", "openai_input": body},
        {"route": "/v1/chat/completions", "method": "POST", "body": body},
    ):
        (answer,) = ask(job_input)["output"]
        (choice,) = answer["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
            "get_weather",
            {"city": "Paris"},
        )
    assert content(ask({"openai_route": "/v1/chat/completions", "openai_input": chat(choice=["yes"])})) == "yes"
    refused = ask({"openai_route": "/v1/chat/completions", "openai_input": chat(regex="(((")})
    assert "regex" in json.dumps(refused)


def test_a_stream_is_whole_events_and_ends_with_done(ask: Any) -> None:
    job = ask({"openai_route": "/v1/chat/completions", "openai_input": chat(stream=True)})
    lines = [line for line in "".join(job["output"]).split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == PROMPT.expected


def test_route_and_body_answer_too(ask: Any) -> None:
    assert content(ask({"route": "/v1/chat/completions", "body": chat()})) == PROMPT.expected
    models = ask({"route": "/v1/models", "method": "GET"})
    assert models["output"][0]["data"][0]["id"] == "embedded"


def test_a_job_may_use_ollamas_api(ask: Any) -> None:
    body = {"messages": list(PROMPT.messages), "options": {"temperature": 0, "num_predict": PROMPT.max_tokens}}
    (whole,) = ask({"route": "/api/chat", "method": "POST", "body": {**body, "stream": False}})["output"]
    assert whole["message"]["content"] == PROMPT.expected
    lines = "".join(ask({"openai_route": "/api/chat", "openai_input": body})["output"]).splitlines()
    texts = [json.loads(line)["message"]["content"] for line in lines]
    assert "".join(texts) == PROMPT.expected
    assert json.loads(lines[-1])["done_reason"] == "stop"
    failed = ask({"route": "/api/chat", "body": {**body, "options": {"top_p": 2}}})
    assert json.loads(failed["error"]) == {"error": "Invalid 'options.top_p': must be at most 1, not 2."}


def test_plain_messages_take_parameters_next_to_them_or_under_sampling_params(ask: Any) -> None:
    assert content(ask(chat())) == PROMPT.expected
    below = {"messages": list(PROMPT.messages), "sampling_params": {"temperature": 0, "max_tokens": PROMPT.max_tokens}}
    assert content(ask(below)) == PROMPT.expected


def test_an_empty_input_lists_the_models(ask: Any) -> None:
    assert ask({"openai_route": "/v1/models", "openai_input": {}})["output"][0]["object"] == "list"


def test_anthropics_messages_are_answered_in_their_own_form(ask: Any) -> None:
    body = {"messages": list(PROMPT.messages), "temperature": 0, "max_tokens": PROMPT.max_tokens}
    for given in (
        {"openai_route": "/v1/messages", "openai_input": body},
        {"route": "/v1/messages", "method": "POST", "body": body},
    ):
        (message,) = ask(given)["output"]
        assert [block["text"] for block in message["content"]] == [PROMPT.expected]
    events = "".join(ask({"route": "/v1/messages", "body": body | {"stream": True}})["output"])
    assert events.startswith("event: message_start\n")
    assert events.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    refused = ask({"route": "/v1/messages", "body": {"messages": []}})
    assert json.loads(refused["error"])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("bad", [[], "text", 7, {}, {"messages": []}, {"openai_route": "/v1/chat/completions"}])
def test_a_bad_input_fails_with_an_envelope_that_can_be_parsed(ask: Any, bad: object) -> None:
    job = ask(bad)
    assert job["status"] == "FAILED"
    assert json.loads(job["error"])["error"]["message"]
    assert "Traceback" not in job["error"]


def test_the_official_client_reaches_it_through_the_platforms_openai_route(platform: emulator.RunningEmulator) -> None:
    with openai.OpenAI(base_url=platform.openai_url, api_key="none", max_retries=0, timeout=120) as client:
        answer = client.chat.completions.create(model="embedded", **chat())
    assert answer.choices[0].message.content == PROMPT.expected


def test_no_prompt_and_no_answer_is_logged(ask: Any, log_path: Path) -> None:
    job = ask({"messages": [{"role": "user", "content": SECRET}], "temperature": 0, "max_tokens": 12})
    log = log_path.read_text()
    assert "Quillfeather" not in log
    assert content(job) not in log or not content(job).strip()
    assert PROMPT.expected not in log or len(PROMPT.expected) < 12


def test_a_batch_is_answered_as_published_from_a_list_and_from_a_url(ask: Any) -> None:
    route = "/v1/chat/completions"
    requests = [{"custom_id": str(number), "method": "POST", "url": route, "body": chat()} for number in range(20)]
    content = "".join(json.dumps(request) + "\n" for request in requests)

    async def send_file(request: Request) -> Response:
        return Response(content + "no request\n")

    app = Starlette(routes=[Route("/in.jsonl", send_file)])
    with ServerThread(app, bind("127.0.0.1", 0)) as server:
        jobs = [ask({"batch": requests}), ask({"batch": f"{server.url}/in.jsonl?signature=secret"})]
        refused = ask({"batch": f"{server.url}/none?signature=secret"})
    for job, n_broken in zip(jobs, (0, 1), strict=True):
        assert job["status"] == "COMPLETED", job
        results = [json.loads(line) for line in "".join(job["output"]).splitlines()]
        answers = {
            result["custom_id"]: result["response"]["body"]["choices"][0]["message"]["content"]
            for result in results
            if result["response"]
        }
        assert answers == {str(number): PROMPT.expected for number in range(20)}
        broken = [result["error"]["message"] for result in results if result["error"]]
        assert len(broken) == n_broken
        assert all(message.startswith("Line 21: ") for message in broken)
    assert refused["status"] == "FAILED"
    assert "its server answered 404" in refused["error"]
    assert "secret" not in refused["error"]
