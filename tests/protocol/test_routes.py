"""Tests of the table of routes, and that every list of routes is made from it."""

from __future__ import annotations

from tests.http.serving import serving
from worker_gguf.errors import EngineFailed
from worker_gguf.http.openapi import document
from worker_gguf.protocol.routes import CHAT, ROUTES


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
