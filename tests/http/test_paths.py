"""Tests of wrong base URLs and extra slashes, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.http.serving import CHAT, KEY, Served, serving
from tests.log_lines import log_lines
from tests.waiting import wait_until

BODY = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(api_keys=(KEY,)) as served:
        served.client.headers["Authorization"] = f"Bearer {KEY}"
        yield served


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions", f"{CHAT}/"])
@pytest.mark.parametrize("prefix", ["", "/openai"])
def test_a_path_that_can_only_mean_one_route_is_served(keyed: Served, prefix: str, path: str) -> None:
    reply = keyed.client.post(f"{keyed.url}{prefix}{path}", json=BODY)
    assert reply.status_code == 200
    assert keyed.backend.calls[-1][:2] == ("POST", CHAT)


@pytest.mark.parametrize("path", ["/models", "/v1/models/", "//v1/models", "/v1/v1/models", "/v1//models"])
def test_the_list_of_models_is_found_under_each_of_them(keyed: Served, path: str) -> None:
    reply = keyed.client.get(f"{keyed.url}{path}")
    assert [model["id"] for model in reply.json()["data"]] == ["fake"]


@pytest.mark.parametrize(("path", "status"), [("/models/fake", 200), ("/v1/models/fake/", 200), ("/models/other", 404)])
def test_one_model_is_found_too(keyed: Served, path: str, status: int) -> None:
    assert keyed.client.get(path).status_code == status


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/models", "//metrics", "/metrics/"])
def test_another_path_does_not_pass_by_the_key(keyed: Served, path: str) -> None:
    method = "POST" if "chat" in path else "GET"
    reply = keyed.client.request(method, f"{keyed.url}{path}", headers={"Authorization": "Bearer wrong"})
    assert reply.status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models%0A"), ("POST", f"{CHAT}%0A")])
def test_a_line_break_after_a_path_is_a_404_with_an_envelope(keyed: Served, method: str, path: str) -> None:
    reply = keyed.client.request(method, f"{keyed.url}{path}", json=BODY)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert reply.headers["x-request-id"]
    reply = keyed.client.request(method, f"{keyed.url}{path}", headers={"Authorization": "Bearer wrong"})
    assert reply.status_code == 401


@pytest.mark.parametrize("path", ["//ping", "/ping/", "/health/", "/openapi.json/"])
def test_a_slash_too_many_does_not_hide_the_probes(keyed: Served, path: str) -> None:
    assert keyed.client.get(f"{keyed.url}{path}").status_code == 200


def test_the_error_of_another_method_names_the_allowed_one(keyed: Served) -> None:
    reply = keyed.client.get("/chat/completions")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_a_path_that_leads_nowhere_is_refused_with_the_right_url(keyed: Served) -> None:
    reply = keyed.client.post("/api/v1/chat/completions", json=BODY)
    error: dict[str, Any] = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (404, "not_found")
    assert "Use /v1/chat/completions" in error["message"]


def test_metrics_and_log_have_the_route_and_not_the_path() -> None:
    with log_lines() as lines, serving() as served:
        served.client.post("/chat/completions", json=BODY)
        # The request is counted once its last byte has left.
        wait_until(lambda: bool(lines.events("request")))
        page = served.client.get("/metrics").text
    assert f'worker_gguf_requests_total{{route="{CHAT}",status="200"}} 1.0' in page
    assert [line["route"] for line in lines.events("request")] == [CHAT]
