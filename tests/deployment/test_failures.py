"""Tests of failures during a deployment, and of the messages that the user reads."""

from __future__ import annotations

import pytest

from tests.deployment.conftest import MANIFEST, TOKEN, Command
from tests.deployment.fake_runpod import KEY, Failure, FakeRunpod


def test_the_error_of_a_refused_key_has_a_next_step(
    command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", f"{KEY}-and-more")
    ended = command.deploy()
    assert ended.code == 1
    assert "401, missing or invalid bearer token" in ended.err
    assert "export it as RUNPOD_API_KEY" in ended.err
    assert len(runpod.seen) == 1


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_a_missing_key_is_an_error_before_anything_is_sent(
    command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    ended = command.deploy()
    assert ended.code == 1
    assert f"RUNPOD_API_KEY {'contains' if key else 'is not set'}" in ended.err
    assert runpod.seen == []


def test_too_many_requests_waits_for_retry_after(command: Command, runpod: FakeRunpod) -> None:
    runpod.failures = [Failure("POST", "/v2/templates", 429, times=2, retry_after_s=12)]
    assert command.deploy(MANIFEST, "--no-wait").code == 0
    assert command.time.waits == [12, 12]
    assert len(runpod.objects["templates"]) == 1


def test_a_broken_read_is_retried_with_growing_pauses_and_then_fails(command: Command, runpod: FakeRunpod) -> None:
    runpod.failures = [Failure("GET", "/v2/serverless", 500, times=99)]
    ended = command.deploy()
    assert ended.code == 1
    assert command.time.waits == [1, 2, 4, 8]
    assert "did not list endpoints: 500, as the test wants" in ended.err
    assert "run the command again later" in ended.err
    assert runpod.changes() == []


@pytest.mark.parametrize("status", [None, 500, 503])
@pytest.mark.parametrize("kind", ["network-volumes", "templates", "serverless"])
def test_what_was_made_though_its_answer_was_lost_is_not_made_twice(
    command: Command, runpod: FakeRunpod, kind: str, status: int | None
) -> None:
    runpod.failures = [Failure("POST", f"/v2/{kind}", status, after=True)]
    assert command.deploy().code == 0
    assert len(runpod.objects[kind]) == 1
    assert [seen.path for seen in runpod.changes()].count(f"/v2/{kind}") == 1


@pytest.mark.parametrize("status", [None, 502])
def test_what_was_not_made_is_asked_for_again(command: Command, runpod: FakeRunpod, status: int | None) -> None:
    runpod.failures = [Failure("POST", "/v2/network-volumes", status)]
    assert command.deploy().code == 0
    assert len(runpod.objects["network-volumes"]) == 1


def test_a_deployment_that_fails_half_way_lists_its_objects_and_the_next_run_continues(
    command: Command, runpod: FakeRunpod
) -> None:
    runpod.failures = [Failure("POST", "/v2/serverless", 400, detail=f"no money left, {TOKEN}, {KEY}")]
    ended = command.deploy()
    assert ended.code == 1
    assert "no money left, ***, ***" in ended.err
    volume, template = runpod.only("network-volumes")["id"], runpod.only("templates")["id"]
    assert f"volume models ({volume}): created; template tiny ({template}): created" in ended.err
    assert "The same command continues from there." in ended.err
    assert command.deploy().code == 0
    assert runpod.only("serverless")["networkVolumes"] == [volume]
    assert [seen.path for seen in runpod.changes()].count("/v2/network-volumes") == 1


def test_the_error_of_a_key_without_permission_names_the_permission(command: Command, runpod: FakeRunpod) -> None:
    runpod.failures = [Failure("POST", "/v2/network-volumes", 403)]
    ended = command.deploy()
    assert "give it write access to Serverless, templates and storage" in ended.err
    assert "Nothing was changed before that." in ended.err


@pytest.mark.parametrize("text", [b"<html>a proxy</html>", b"", b"[]", b'{"networkVolumes": 7}'])
def test_an_answer_of_something_else_is_no_traceback(command: Command, runpod: FakeRunpod, text: bytes) -> None:
    runpod.failures = [Failure("GET", "/v2/network-volumes", 200, text=text)]
    ended = command.deploy()
    assert ended.code == 1
    assert "does not match the description of its API" in ended.err


@pytest.mark.parametrize("text", [b"{}", b"null", b"<html>"])
def test_a_creation_that_is_answered_by_something_else_is_no_traceback(
    command: Command, runpod: FakeRunpod, text: bytes
) -> None:
    runpod.failures = [Failure("POST", "/v2/network-volumes", 201, text=text, after=True)]
    assert command.deploy().code == 1
    assert command.deploy().code == 0
    assert len(runpod.objects["network-volumes"]) == 1


def test_a_redirect_is_not_followed(command: Command, runpod: FakeRunpod) -> None:
    runpod.failures = [Failure("GET", "/v2/network-volumes", 302, text=b"")]
    ended = command.deploy()
    assert "redirects elsewhere" in ended.err
    assert len(runpod.seen) == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com", "is not HTTPS"),
        ("example.com", "is not a valid address"),
        ("https://user:pass@example.com", "is not a valid address"),
        ("http://127.0.0.1:port", "is not a valid address"),
        ("https://[", "is not a valid address"),
    ],
)
def test_the_key_goes_to_no_address_in_the_open(command: Command, url: str, said: str) -> None:
    ended = command.deploy(MANIFEST, "--api-url", url)
    assert ended.code == 1
    assert said in ended.err


def test_the_address_of_the_api_may_come_from_the_environment(
    runpod: FakeRunpod, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_REST_URL", runpod.url)
    command._url = ""
    assert command.deploy(MANIFEST, "--no-wait").code == 0
    assert len(runpod.objects["serverless"]) == 1
