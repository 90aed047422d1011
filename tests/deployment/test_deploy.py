"""Deployments from deploy.yaml to the first answer, against the stand-in for RunPod."""

from __future__ import annotations

import pytest

from tests.deployment.conftest import BALANCED, MANIFEST, TOKEN, Command
from tests.deployment.fake_runpod import FakeRunpod


def test_the_first_time_makes_all_three_in_order_and_ends_with_a_curl(command: Command, runpod: FakeRunpod) -> None:
    ended = command.deploy()
    assert (ended.code, ended.err) == (0, "")
    assert [(seen.method, seen.path) for seen in runpod.changes()] == [
        ("POST", "/v2/network-volumes"),
        ("POST", "/v2/templates"),
        ("POST", "/v2/serverless"),
    ]
    endpoint = runpod.only("serverless")
    assert endpoint["type"] == "QUEUE"
    assert endpoint["networkVolumes"] == [runpod.only("network-volumes")["id"]]
    assert endpoint["dataCenterIds"] == ["EU-RO-1"]
    assert endpoint["env"] == {"N_CTX": "4096", "HF_TOKEN": TOKEN, "MODEL": "me/tiny-GGUF:Q4_K_M", "MODE": "queue"}
    assert "first answer after" in ended.out
    assert "31.2 s for a worker and its start, 0.4 s to answer" in ended.out
    assert f"curl {runpod.url}/plane/{endpoint['id']}/openai/v1/chat/completions" in ended.out
    assert "Bearer $RUNPOD_API_KEY" in ended.out


def test_a_load_balanced_endpoint_exposes_its_port_and_gets_requests_directly(
    command: Command, runpod: FakeRunpod
) -> None:
    runpod.plane.ping = [(404, {"error": "no workers available"}), (204, None), (200, {})]
    ended = command.deploy(BALANCED)
    assert ended.code == 0
    endpoint = runpod.only("serverless")
    assert (endpoint["type"], endpoint["ports"], endpoint["env"]["MODE"]) == ("LOAD_BALANCER", ["80/http"], "http")
    assert endpoint["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    assert "no workers available" in ended.out
    assert "a worker is loading the model" in ended.out
    assert f"/plane/{endpoint['id']}/v1/chat/completions" in ended.out


@pytest.mark.parametrize("manifest", [MANIFEST, BALANCED])
def test_the_second_time_changes_nothing(command: Command, runpod: FakeRunpod, manifest: str) -> None:
    command.deploy(manifest)
    n_before = len(runpod.changes())
    ended = command.deploy(manifest)
    assert ended.code == 0
    assert len(runpod.changes()) == n_before
    assert ended.out.count("up to date") == 6  # three in the plan, three as it is carried out


@pytest.mark.parametrize(
    ("before", "after", "sent"),
    [
        ("size_gb: 30", "size_gb: 40", {"network-volumes": {"size": 40}}),
        ("[AMPERE_24, ADA_24]", "[ADA_24]", {"serverless": {"gpu": {"pools": ["ADA_24"], "excludedTypes": []}}}),
        ("  pools:", "  count: 2\n  pools:", {"serverless": {"gpu": {"count": 2}}}),
        ("mode: queue", "timeout_s: 60", {"serverless": {"timeout": 60000}}),
        ("mode: queue", "flashboot: off", {"serverless": {"flashboot": "OFF"}}),
        ("mode: queue", "workers: {max: 5}", {"serverless": {"workers": {"min": 0, "max": 5, "idleTimeout": 10}}}),
        (
            "mode: queue",
            "scaling: {queue_delay_s: 2.5}",
            {"serverless": {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 2.5}}},
        ),
        (
            "ghcr.io/me/worker-gguf:0.1.0-cu118",
            "me/other:2",
            {"templates": {"image": "me/other:2"}, "serverless": {"image": "me/other:2"}},
        ),
    ],
)
def test_a_change_sends_that_alone(
    command: Command, runpod: FakeRunpod, before: str, after: str, sent: dict[str, object]
) -> None:
    command.deploy()
    runpod.seen.clear()
    assert before in MANIFEST
    assert command.deploy(MANIFEST.replace(before, after)).code == 0
    assert [seen.method for seen in runpod.changes()] == ["PATCH"] * len(sent)
    assert {seen.path.split("/")[2]: seen.body for seen in runpod.changes()} == sent


def test_a_cuda_floor_takes_the_place_of_a_set_and_can_be_cleared(command: Command, runpod: FakeRunpod) -> None:
    command.deploy(MANIFEST.replace("  pools:", '  cuda_versions: ["12.8"]\n  pools:'))
    assert command.deploy(MANIFEST.replace("  pools:", "  min_cuda: 12.10\n  pools:")).code == 0
    assert runpod.only("serverless")["gpu"]["minCudaVersion"] == "12.10"
    assert command.deploy(MANIFEST).code == 0
    assert runpod.only("serverless")["gpu"]["minCudaVersion"] is None


def test_what_the_console_changed_is_put_back(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    runpod.only("serverless")["workers"]["max"] = 9
    runpod.only("serverless")["env"]["SNEAKED_IN"] = "its-value"
    ended = command.deploy()
    assert runpod.only("serverless")["workers"]["max"] == 3
    assert "SNEAKED_IN" not in runpod.only("serverless")["env"]
    assert "workers.max: 9 -> 3" in ended.out
    assert "env.SNEAKED_IN: *** removed" in ended.out


def test_a_dry_run_only_reads(command: Command, runpod: FakeRunpod) -> None:
    ended = command.deploy(MANIFEST, "--dry-run")
    assert ended.code == 0
    assert {seen.method for seen in runpod.seen} == {"GET"}
    assert "+ create  volume   models" in ended.out
    assert "env.N_CTX: 4096" in ended.out
    assert "env.HF_TOKEN: ***" in ended.out
    assert "Dry run: nothing was changed." in ended.out
    command.deploy()
    assert "Nothing would change." in command.deploy(MANIFEST, "--dry-run").out


def test_a_secret_that_changed_is_sent_and_not_shown(
    command: Command, runpod: FakeRunpod, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.deploy()
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}2")
    ended = command.deploy()
    assert runpod.only("serverless")["env"]["HF_TOKEN"] == f"{TOKEN}2"
    assert "env.HF_TOKEN: *** (another value)" in ended.out
    assert "until then an old one may answer" in ended.out


def test_another_type_needs_leave_to_replace(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    first, runpod.binds_templates = runpod.only("serverless")["id"], True
    refused = command.deploy(BALANCED)
    assert refused.code == 1
    assert "--replace" in refused.err
    assert runpod.only("serverless")["id"] == first
    runpod.bound[first] = runpod.only("templates")["id"]  # and RunPod takes the template along
    ended = command.deploy(BALANCED, "--replace")
    assert ended.code == 0, ended.err
    assert runpod.only("serverless")["type"] == "LOAD_BALANCER"
    assert runpod.only("serverless")["env"]["MODE"] == "http"
    assert runpod.only("templates")["env"]["MODE"] == "http"


def test_an_unsupported_change_is_an_error_before_anything_is_sent(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    runpod.seen.clear()
    smaller = command.deploy(MANIFEST.replace("size_gb: 30", "size_gb: 20"))
    moved = command.deploy(MANIFEST.replace("EU-RO-1", "US-KS-2"))
    assert (smaller.code, moved.code) == (1, 1)
    assert "cannot shrink it to 20 GB. Use size_gb: 30" in smaller.err
    assert "is in EU-RO-1 and cannot be moved to US-KS-2" in moved.err
    assert runpod.changes() == []


@pytest.mark.parametrize("kind", ["serverless", "network-volumes", "templates"])
def test_two_of_one_name_are_an_error(command: Command, runpod: FakeRunpod, kind: str) -> None:
    command.deploy()
    (first,) = runpod.objects[kind].values()
    runpod.objects[kind]["twin"] = {**first, "id": "twin"}
    n_before = len(runpod.changes())
    ended = command.deploy()
    assert ended.code == 1
    assert "There are 2" in ended.err
    assert "twin" in ended.err
    assert len(runpod.changes()) == n_before


def test_an_endpoint_that_the_console_marked_for_flashboot_is_found(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    runpod.only("serverless")["name"] = "tiny -fb"
    command.deploy()
    assert len(runpod.objects["serverless"]) == 1


def test_a_template_for_pods_is_left_alone(command: Command, runpod: FakeRunpod) -> None:
    command.deploy()
    runpod.only("templates")["serverless"] = False
    ended = command.deploy()
    assert ended.code == 1
    assert "is for Pods" in ended.err


def test_a_value_that_runpod_changed_is_reported(command: Command, runpod: FakeRunpod) -> None:
    made = runpod._endpoint
    runpod._endpoint = lambda body: made(body) | {"flashboot": "OFF"}  # type: ignore[method-assign]
    ended = command.deploy()
    assert "RunPod has flashboot: OFF, but FLASHBOOT was requested" in ended.out


def test_cpu_workers_and_the_image_of_a_pipeline(command: Command, runpod: FakeRunpod) -> None:
    manifest = MANIFEST.replace("gpu:\n  pools: [AMPERE_24, ADA_24]", "cpu: [{flavor: cpu5c, vcpus: 4}]")
    manifest = manifest.replace("worker-gguf:0.1.0-cu118", "worker-gguf:VERSION-cpu")
    assert command.deploy(manifest, "--image", "ghcr.io/me/worker-gguf:abc-cpu", "--no-wait").code == 0
    assert command.deploy(manifest, "--image", "ghcr.io/me/worker-gguf:abc-cpu", "--no-wait").code == 0
    assert len(runpod.changes()) == 3
    assert runpod.only("serverless")["image"] == "ghcr.io/me/worker-gguf:abc-cpu"
    assert runpod.only("templates")["category"] == "CPU"
    assert not any(seen.path.startswith("/plane/") for seen in runpod.seen)


def test_without_a_volume_runpod_chooses_where_and_is_left_to_it(command: Command, runpod: FakeRunpod) -> None:
    manifest = MANIFEST.partition("volume:")[0]
    assert command.deploy(manifest).code == 0
    assert "/v2/network-volumes" not in {seen.path for seen in runpod.seen}
    assert runpod.only("serverless")["dataCenterIds"] == ["US-KS-2"]
    command.deploy(manifest)
    assert len(runpod.changes()) == 2


def test_a_volume_is_put_on_an_endpoint_that_had_none(command: Command, runpod: FakeRunpod) -> None:
    command.deploy(MANIFEST.partition("volume:")[0])
    assert command.deploy().code == 0
    assert runpod.only("serverless")["networkVolumes"] == [runpod.only("network-volumes")["id"]]
    assert command.deploy(MANIFEST.partition("volume:")[0]).code == 0
    assert runpod.only("serverless")["networkVolumes"] == []
