"""Tests of the plan: it has no side effects, it is minimal, and it is empty after it was applied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deployment.description import Description
from tests.deployment.fake_runpod import KEY, LISTS, FakeRunpod
from worker_gguf.deployment.api import RunpodApi
from worker_gguf.deployment.apply import carry_out
from worker_gguf.deployment.channel import Channel, Clock
from worker_gguf.deployment.existing import Existing, Kind, find
from worker_gguf.deployment.manifest import Cpu, EnvValue, Gpu, Manifest, Scaling, Volume, Workers
from worker_gguf.deployment.plan import describe, make_plan
from worker_gguf.deployment.redactor import Redactor
from worker_gguf.deployment.wanted import Body
from worker_gguf.errors import DeploymentError

PATHS: dict[Kind, str] = {"volume": "network-volumes", "template": "templates", "endpoint": "serverless"}
POOLS = ["AMPERE_24", "ADA_24", "HOPPER_141"]
WORDS = st.text("abcXYZ0189 _-{}$'\"\\\n", min_size=1, max_size=12)
# Never the same as a text that is shown for another reason.
SECRETS = st.text("äöü§", min_size=6, max_size=9)


def lists(choices: Sequence[str], least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(choices), min_size=least, max_size=3, unique=True).map(tuple)


@st.composite
def gpus(draw: st.DrawFn) -> Gpu:
    versions = draw(lists(["12.4", "12.8", "13.0"]))
    least = None if versions else draw(st.sampled_from([None, "11.8", "12.10"]))
    return Gpu(
        pools=draw(lists(POOLS, 1)),
        excluded_types=draw(lists(["NVIDIA L4", "NVIDIA A40"])),
        count=draw(st.integers(1, 4)),
        cuda_versions=versions,
        min_cuda=least,
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    is_queue = draw(st.booleans())
    delay_s = draw(st.sampled_from([0.5, 4.0, 2.25])) if is_queue and draw(st.booleans()) else None
    scaling = Scaling(queue_delay_s=delay_s, requests_per_worker=None if delay_s else draw(st.integers(1, 9)))
    idle_s = None if is_queue and delay_s is None else draw(st.integers(1, 3600))
    on_gpu = draw(st.booleans())
    size_gb = draw(st.none() | st.integers(10, 99))
    volume = Volume(name="v", size_gb=size_gb, data_center="EU-RO-1") if size_gb else None
    plain = draw(st.dictionaries(st.sampled_from(["N_CTX", "CHAT_TEMPLATE", "OTHER"]), WORDS))
    secret = draw(st.dictionaries(st.sampled_from(["HF_TOKEN", "API_KEYS", "MY_KEY"]), SECRETS))
    env = {name: EnvValue(text, False) for name, text in plain.items()}
    return Manifest(
        name="any",
        mode="queue" if is_queue else "load_balanced",
        image=draw(st.sampled_from(["a:1", "a:2"])),
        env=env | {name: EnvValue(text, True) for name, text in secret.items()},
        gpu=draw(gpus()) if on_gpu else None,
        cpu=() if on_gpu else (Cpu(flavor="cpu5c", vcpus=draw(st.sampled_from([2, 4]))), Cpu(flavor="cpu3g", vcpus=8)),
        workers=Workers(min=draw(st.integers(0, 2)), max=draw(st.integers(2, 5)), idle_timeout_s=idle_s),
        scaling=scaling,
        timeout_s=draw(st.integers(5, 999)),
        flashboot=draw(st.sampled_from(["off", "on", "priority"])),
        container_disk_gb=draw(st.integers(1, 50)),
        args=draw(st.sampled_from(["", "serve"])),
        ports=draw(lists(["80/http", "81/http"])),
        registry=draw(st.none() | st.just("reg")),
        volume=volume,
        data_centers=("EU-RO-1",) if volume else draw(st.none() | lists(["US-KS-2", "EU-SE-1"])),
    )


class Direct:
    """The API's three lists without HTTP; the stand-in checks each request and answer as it does over HTTP."""

    def __init__(self, fake: FakeRunpod) -> None:
        self.fake = fake

    def list(self, kind: Kind) -> Sequence[Body]:
        path = PATHS[kind]
        found: Sequence[Body] = self._ask("GET", path)[LISTS[path]]
        return copy.deepcopy(found)

    def create(self, kind: Kind, body: Body) -> Body:
        return self._answered("POST", PATHS[kind], body)

    def update(self, kind: Kind, id: str, body: Body) -> Body:
        return self._answered("PATCH", f"{PATHS[kind]}/{id}", body)

    def delete(self, kind: Kind, id: str) -> None:
        self._ask("DELETE", f"{PATHS[kind]}/{id}")

    def _answered(self, method: str, path: str, body: Body) -> Body:
        found: Body = copy.deepcopy(self._ask(method, path, dict(body)))
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        status, said = self.fake.answer(method, f"/v2/{path}", "", "application/json", copy.deepcopy(body))
        content_type = "application/json" if status < 400 else "application/problem+json"
        self.fake.faults += self.fake.description.answer_faults(method, f"/v2/{path}", status, content_type, said)
        assert status < 300, said
        return said


def carried_out(api: Direct, manifest: Manifest) -> list[str]:
    """Return the output, with the plan's lines before those of the steps."""
    existing = find(api, manifest)
    plan = make_plan(manifest, existing)
    said = list(describe(plan, manifest))
    endpoint = carry_out(api, manifest, existing, plan, said.append)
    assert endpoint["name"] == manifest.name
    return said


def too_small(volume: Volume | None, fake: FakeRunpod) -> bool:
    return volume is not None and any(
        found["size"] > volume.size_gb for found in fake.objects["network-volumes"].values()
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=manifests(), second=manifests())
def test_any_deployment_is_at_rest_once_made_and_once_changed(
    description: Description, first: Manifest, second: Manifest
) -> None:
    fake = FakeRunpod(description)
    fake._server.server_close()  # it is asked directly
    api = Direct(fake)
    for manifest in (first, second):
        if too_small(manifest.volume, fake):
            with pytest.raises(DeploymentError, match="shrink"):
                carried_out(api, manifest)
            return
        said = carried_out(api, manifest)
        assert fake.faults == []
        assert not [line for line in said if line.lstrip().startswith("RunPod has")]
        before = copy.deepcopy(fake.objects)
        again = make_plan(manifest, find(api, manifest))
        assert again.changes_nothing, list(describe(again, manifest))
        carried_out(api, manifest)
        assert fake.objects == before
        secrets = [value.text for value in manifest.env.values() if value.is_secret]
        assert not [text for text in secrets if text in "\n".join(said) or text in repr(again)]


@settings(max_examples=30, deadline=None)
@given(manifests(), manifests())
def test_a_plan_is_the_same_each_time_and_changes_neither_of_its_two(first: Manifest, second: Manifest) -> None:
    template = {"id": "t", "name": "any", "serverless": True, "env": {"N_CTX": "1"}, "ports": ["80/http"]}
    endpoint = {"id": "e", "name": "any", "type": "QUEUE", "gpu": {"pools": ["ADA_24"]}, "env": None}
    existing = Existing(None, template, endpoint)
    before = copy.deepcopy((existing.template, existing.endpoint, first))
    assert make_plan(first, existing) == make_plan(first, existing)
    make_plan(second, existing)
    assert (existing.template, existing.endpoint, first) == before


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=3), min_size=1, max_size=4), st.text())
def test_a_redacted_text_has_no_secret_in_it(secrets: list[str], text: str) -> None:
    said = Redactor(secrets).clean("\n".join([text, *secrets, *map(repr, secrets)]))
    assert not [secret for secret in secrets if secret.replace("*", "") and secret in said.replace("***", "")]


def test_the_real_clock_and_api_work_together(runpod: FakeRunpod) -> None:
    with Channel(KEY) as channel:
        assert RunpodApi(channel, f"{runpod.url}/", Clock()).list("endpoint") == []
