"""Tests of `worker-gguf destroy`, which removes what `deploy` created."""

from __future__ import annotations

import io

import pytest

from tests.deployment.conftest import Command
from tests.deployment.fake_runpod import Failure, FakeRunpod


def removed(runpod: FakeRunpod) -> list[str]:
    return [seen.path.split("/")[2] for seen in runpod.changes() if seen.method == "DELETE"]


def test_endpoint_and_template_go_and_the_volume_stays(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    ended = command.destroy("--yes")
    assert ended.code == 0
    assert removed(runpod) == ["serverless", "templates"]
    assert runpod.only("network-volumes")["name"] == "models"
    assert "kept and billed. --volume removes it too" in ended.out


def test_the_volume_goes_last_and_when_asked(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    assert command.destroy("--yes", "--volume").code == 0
    assert removed(runpod) == ["serverless", "templates", "network-volumes"]
    assert not any(runpod.objects.values())


def test_it_needs_no_secret_of_the_file(command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch) -> None:
    command.deploy()
    monkeypatch.delenv("HF_TOKEN")
    assert command.destroy("--yes").code == 0


@pytest.mark.parametrize(("says", "n"), [("y", 2), ("yes", 2), ("", 0), ("n", 0), (None, 0)])
def test_it_asks_first_and_takes_silence_for_no(
    command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch, says: str | None, n: int
) -> None:
    command.deploy()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    ended = command.destroy(says=says)
    assert len(removed(runpod)) == n
    assert ended.code == (0 if n else 1)


def test_what_is_left_is_named_and_the_next_run_goes_on(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    template = runpod.only("templates")["id"]
    runpod.failures = [Failure("DELETE", f"/v2/templates/{template}", 400, detail="in use")]
    ended = command.destroy("--yes")
    assert ended.code == 1
    assert "in use" in ended.err
    assert f"Not removed: template {template}" in ended.err
    assert command.destroy("--yes").code == 0
    assert not runpod.objects["templates"]


def test_a_removal_whose_answer_was_lost_is_one(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    endpoint = runpod.only("serverless")["id"]
    runpod.failures = [Failure("DELETE", f"/v2/serverless/{endpoint}", None, after=True)]
    assert command.destroy("--yes").code == 0


def test_a_template_that_went_with_its_endpoint_is_gone(command: Command, runpod: FakeRunpod) -> None:
    runpod.binds_templates = True
    command.deploy()
    assert command.destroy("--yes").code == 0


def test_nothing_to_remove_is_no_error(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    command.destroy("--yes", "--volume")
    ended = command.destroy("--yes", "--volume")
    assert (ended.code, removed(runpod)[3:]) == (0, [])
    assert "Nothing named tiny exists." in ended.out
