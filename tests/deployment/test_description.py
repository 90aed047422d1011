"""Tests that the check of requests finds what RunPod's description forbids."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment.description import Description

ENDPOINT = {
    "name": "a",
    "type": "QUEUE",
    "image": "a:1",
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "gpu": {"pools": ["ADA_24"]},
}
VOLUME = {"name": "a", "size": 10, "dataCenter": "EU-RO-1"}


def faults(description: Description, method: str, path: str, body: Any, query: str = "") -> list[str]:
    return description.request_faults(method, f"/v2/{path}", query, "application/json", body)


def test_good_requests_pass(description: Description) -> None:
    assert faults(description, "POST", "serverless", ENDPOINT) == []
    assert faults(description, "POST", "network-volumes", VOLUME) == []
    assert faults(description, "PATCH", "serverless/x", {"timeout": 1}) == []
    assert faults(description, "GET", "templates", None) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "serverless", ENDPOINT | {"gpuTypeIds": ["x"]}),
        ("POST", "serverless", ENDPOINT | {"workersMax": 3}),
        ("POST", "serverless", ENDPOINT | {"type": "LOAD_BALANCER"}),  # a queue's scaler
        ("POST", "serverless", ENDPOINT | {"gpu": {"pools": []}}),
        ("POST", "serverless", ENDPOINT | {"gpu": {"pools": ["ADA_24"], "types": []}}),
        ("POST", "serverless", ENDPOINT | {"gpu": {"pools": ["ADA_24"], "minCudaVersion": ""}}),
        ("POST", "serverless", ENDPOINT | {"env": {"A": 1}}),
        ("POST", "serverless", {key: value for key, value in ENDPOINT.items() if key != "image"}),
        ("POST", "serverless", None),
        ("PATCH", "serverless/x", {"type": "QUEUE"}),
        ("PATCH", "serverless/x", {"gpu": {"excludedTypes": ["x"]}}),
        ("POST", "network-volumes", VOLUME | {"size": 5}),
        ("PATCH", "network-volumes/x", {}),
        ("PATCH", "network-volumes/x", {"dataCenter": "EU-RO-1"}),
        ("POST", "templates", {"name": "a"}),
        ("PUT", "templates/x", {}),
        ("GET", "no-such-thing", None),
        ("GET", "templates", {"a": 1}),
    ],
)
def test_a_bad_request_is_found(description: Description, method: str, path: str, body: Any) -> None:
    assert faults(description, method, path, body)


def test_a_bad_answer_is_found(description: Description) -> None:
    def of(status: int, content_type: str, body: Any) -> list[str]:
        return description.answer_faults("POST", "/v2/network-volumes", status, content_type, body)

    volume = VOLUME | {"id": "x", "type": "STANDARD"}
    assert of(201, "application/json", volume) == []
    assert of(201, "application/json", VOLUME)
    assert of(201, "text/html", volume)
    assert of(401, "application/problem+json", {"title": "no"})


def test_a_parameter_that_is_not_described_is_found(description: Description) -> None:
    assert faults(description, "GET", "templates", None, "includeEndpointBoundTemplates=true")
