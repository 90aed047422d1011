"""Tests of finding the route of a path, and of the errors where there is none."""

from __future__ import annotations

import pytest

from worker_gguf.errors import MethodNotAllowed, NotFound
from worker_gguf.protocol.lookup import dialect_at, find
from worker_gguf.protocol.route import Match
from worker_gguf.protocol.routes import CHAT, COMPLETIONS, MODEL, MODELS


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


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/anthropic/v1/messages", "/v1/messages"),
        ("/v1/messages/v1/messages", "/v1/messages"),
        ("/v1/messages/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/ollama/api/chat", "/api/chat"),
    ],
)
def test_the_base_url_of_some_clients_is_the_address_alone(path: str, meant: str) -> None:
    with pytest.raises(NotFound, match=f"Use {meant}: the base URL is the worker's address, without /v1"):
        find("POST", path)


@pytest.mark.parametrize("path", ["/v2/embed", "/v1/embed", "/embed"])
def test_the_route_for_vectors_is_named_to_clients_of_other_apis(path: str) -> None:
    with pytest.raises(NotFound, match="Use /v1/embeddings"):
        find("POST", path)


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
        ("/v1/messages/batches", "anthropic"),
        ("/messages/batches/", "anthropic"),
        ("/anthropic/v1/messages", "anthropic"),
        ("/ollama/api/chat", "ollama"),
        ("/v1/messages_of_others", "openai"),
        ("/v1/models/m", "openai"),
        ("/", "openai"),
    ],
)
def test_the_errors_of_a_path_are_those_of_its_dialect(path: str, name: str) -> None:
    assert dialect_at(path).name == name
