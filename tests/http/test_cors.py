"""Tests of browsers' requests: preflights, and the headers on each answer that a page may read."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fake_backend import FakeBackend
from tests.http.serving import CHAT, KEY, Served, serving
from tests.shared_case import read_case

PAGE = "http://localhost:5173"
BODY = {"messages": [{"role": "user", "content": "Hi"}]}
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
}
WITH_KEY = {"Origin": PAGE, "Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def open_to_page() -> Iterator[Served]:
    with serving(api_keys=(KEY,), cors_origins=(PAGE, "https://app.example.com")) as served:
        yield served


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Served]:
    with serving(cors_origins=("*",)) as served:
        yield served


def check_readable(reply: httpx.Response) -> None:
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "Origin" in reply.headers["vary"]
    exposed = reply.headers["access-control-expose-headers"]
    assert {"X-Request-Id", "X-Ignored-Parameters", "Retry-After"} <= set(exposed.split(", "))


def test_a_preflight_needs_no_key_and_allows_the_headers_of_clients(open_to_page: Served) -> None:
    reply = open_to_page.client.options(CHAT, headers=PREFLIGHT)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert {"GET", "POST"} <= set(reply.headers["access-control-allow-methods"].split(", "))
    allowed = reply.headers["access-control-allow-headers"].split(",")
    assert {"authorization", "content-type", "x-stainless-lang"} <= {name.strip() for name in allowed}
    assert open_to_page.backend.calls == []


def test_case_25_a_browsers_preflight(open_to_page: Served) -> None:
    case = read_case(25)
    reply = open_to_page.client.request(case["method"], case["route"], headers=case["headers"])
    assert reply.status_code in (200, 204)
    assert reply.headers["access-control-allow-origin"] == case["headers"]["Origin"]


@pytest.mark.parametrize(
    "changed",
    [{"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Access-Control-Request-Method": "DELETE"}],
    ids=lambda changed: next(iter(changed.values())),
)
def test_another_origin_or_method_is_refused_with_a_sentence(open_to_page: Served, changed: dict[str, str]) -> None:
    reply = open_to_page.client.options(CHAT, headers=PREFLIGHT | changed)
    assert reply.status_code == 400
    assert "CORS_ORIGINS" in reply.json()["error"]["message"]
    if "Origin" in changed:
        assert "access-control-allow-origin" not in reply.headers


def test_answers_can_be_read_by_the_page(open_to_page: Served) -> None:
    reply = open_to_page.client.post(CHAT, json=BODY | {"ignored": "user"}, headers=WITH_KEY)
    assert reply.status_code == 200
    assert reply.headers["x-ignored-parameters"] == "user"
    check_readable(reply)
    check_readable(open_to_page.client.get("/health", headers=WITH_KEY))


def test_streams_can_be_read_by_the_page(open_to_page: Served) -> None:
    with open_to_page.client.stream("POST", CHAT, json=BODY | {"stream": True}, headers=WITH_KEY) as reply:
        check_readable(reply)
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = [line for line in reply.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert len(events) == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", CHAT, {}, 400),
        ("POST", CHAT, BODY | {"full": True}, 429),
        ("POST", CHAT, BODY | {"boom": True}, 500),
        ("POST", "/v1/nowhere", BODY, 404),
        ("DELETE", CHAT, None, 405),
    ],
)
def test_errors_can_be_read_by_the_page(
    open_to_page: Served, method: str, path: str, body: object, status: int
) -> None:
    reply = open_to_page.client.request(method, path, json=body, headers=WITH_KEY)
    assert reply.status_code == status
    check_readable(reply)


def test_a_wrong_key_is_an_error_that_the_page_can_read(open_to_page: Served) -> None:
    reply = open_to_page.client.post(CHAT, json=BODY, headers={"Origin": PAGE})
    assert reply.status_code == 401
    check_readable(reply)


def test_another_page_is_answered_without_the_headers_that_let_it_read(open_to_page: Served) -> None:
    reply = open_to_page.client.post(CHAT, json=BODY, headers=WITH_KEY | {"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in reply.headers


def test_a_star_allows_every_page(open_to_all: Served) -> None:
    assert open_to_all.client.options(CHAT, headers=PREFLIGHT).headers["access-control-allow-origin"] == "*"
    reply = open_to_all.client.post(CHAT, json=BODY, headers={"Origin": "null"})
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in reply.headers


def test_only_a_page_that_is_named_may_reach_into_a_private_network(open_to_page: Served, open_to_all: Served) -> None:
    headers = PREFLIGHT | {"Access-Control-Request-Private-Network": "true"}
    named = open_to_page.client.options(CHAT, headers=headers)
    assert named.headers["access-control-allow-private-network"] == "true"
    assert open_to_all.client.options(CHAT, headers=headers).status_code == 400


def test_without_an_origin_nothing_is_added(open_to_page: Served) -> None:
    for path in "/ping", "/health":
        headers = open_to_page.client.get(path).headers
        assert not [name for name in headers if name.startswith("access-control-") or name == "vary"]
    assert open_to_page.client.options(CHAT).status_code == 405


def test_while_the_model_loads_a_page_can_read_that_it_does() -> None:
    with serving(FakeBackend("starting"), cors_origins=(PAGE,)) as served:
        reply = served.client.post(CHAT, json=BODY, headers={"Origin": PAGE})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        check_readable(reply)


def test_without_the_setting_a_preflight_is_405() -> None:
    with serving() as served:
        reply = served.client.options(CHAT, headers=PREFLIGHT)
        assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
        assert "access-control-allow-origin" not in served.client.post(CHAT, json=BODY, headers=PREFLIGHT).headers
