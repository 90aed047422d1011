"""Tests of the table of routes, and that every list of routes is made from it."""

from __future__ import annotations

import pytest

from tests.http.serving import serving
from worker_gguf.errors import EngineFailed, MethodNotAllowed, NotFound
from worker_gguf.http.openapi import document
from worker_gguf.protocol.route import Match
from worker_gguf.protocol.routes import CHAT, COMPLETIONS, MODEL, MODELS, ROUTES, dialect_at, find


@pytest.mark.parametrize("route", [MODELS, CHAT, COMPLETIONS], ids=lambda route: route.path)
def test_a_path_leads_to_its_route(route: object) -> None:
    assert isinstance(route, type(MODELS))
    assert find(route.method, route.path) == Match(route)


def test_a_name_in_a_path_may_hold_slashes() -> None:
    assert find("GET", "/v1/models/org/repo:Q4_K_M") == Match(MODEL, "org/repo:Q4_K_M")


@pytest.mark.parametrize("path", ["/v1", "/v1/other", "/v1/completions/x", "", "/", "/v1//", "v1/model"])
def test_an_unknown_path_is_not_found_and_the_error_lists_the_routes(path: str) -> None:
    with pytest.raises(NotFound, match=r"/v1/chat/completions, .*/v1/completions, /v1/models"):
        find("GET", path)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("/models", Match(MODELS)),
        ("/v1/v1/models", Match(MODELS)),
        ("//v1/models", Match(MODELS)),
        ("/v1/models/", Match(MODELS)),
        ("/v1//models//", Match(MODELS)),
        ("/openai/v1/models", Match(MODELS)),
        ("/openai/models", Match(MODELS)),
        ("/models/org/repo:Q4_K_M", Match(MODEL, "org/repo:Q4_K_M")),
        ("/v1/models/org/repo/", Match(MODEL, "org/repo")),
        ("/v1/models/v1/repo", Match(MODEL, "v1/repo")),
        ("/v1/v1/models/openai/repo", Match(MODEL, "openai/repo")),
    ],
)
def test_a_wrong_base_url_or_a_slash_too_many_leads_to_the_route_that_is_meant(path: str, match: Match) -> None:
    assert find("GET", path) == match


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/v2/abcdef/openai/v1/completions", "/v1/completions"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("v1/models", "/v1/models"),
    ],
)
def test_the_error_of_a_path_that_ends_in_a_route_names_that_route(path: str, meant: str) -> None:
    with pytest.raises(NotFound, match=f"Use {meant}: the base URL is the worker's address followed by /v1"):
        find("GET", path)


def test_a_path_of_many_slashes_is_read_once() -> None:
    with pytest.raises(NotFound):
        find("GET", "/v1" * 100_000)


@pytest.mark.parametrize(("method", "path", "allowed"), [("GET", CHAT.path, "POST"), ("POST", "/v1/models/m", "GET")])
def test_the_error_of_another_method_names_the_allowed_one(method: str, path: str, allowed: str) -> None:
    with pytest.raises(MethodNotAllowed, match=f"Use {allowed}"):
        find(method, path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/messages", "anthropic"),
        ("/messages/", "anthropic"),
        ("/v1/v1/messages/count_tokens", "anthropic"),
        ("/v1/messages/other", "openai"),
        ("/v1/models/m", "openai"),
        ("/", "openai"),
    ],
)
def test_the_errors_of_a_path_are_those_of_its_dialect(path: str, name: str) -> None:
    assert dialect_at(path).name == name


def test_no_two_routes_share_method_and_path() -> None:
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_openapi_describes_exactly_the_routes() -> None:
    described = document(ROUTES, has_keys=True)["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    probes = {("GET", "/health"), ("GET", "/metrics"), ("GET", "/ping")}
    assert found - probes == {(route.method, route.path) for route in ROUTES}


def test_every_route_is_served_over_http() -> None:
    with serving() as served:
        for route in ROUTES:
            path = route.path.replace("{model_id}", "fake")
            body = {"messages": [], "prompt": "Hello"} if route.method == "POST" else None
            assert served.client.request(route.method, path, json=body).status_code == 200, path


def test_a_route_words_an_error_as_a_body_and_as_the_end_of_a_stream() -> None:
    error = EngineFailed("Broken.")
    assert CHAT.dialect.error_body(error)["error"]["code"] == "engine_failed"
    ending = CHAT.dialect.error_ending(error)
    assert ending.startswith(b'data: {"error":')
    assert ending.endswith(b"}\n\ndata: [DONE]\n\n")
