"""Tests of the keys of deploy.yaml, and of the errors for mistakes in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.conftest import BALANCED, MANIFEST
from worker_gguf.deployment.manifest import Cpu, EnvValue, Gpu, Manifest, Names, Scaling, Volume, VolumeName, Workers
from worker_gguf.deployment.reading import read_manifest, read_names
from worker_gguf.deployment.variables import notes_on
from worker_gguf.errors import ManifestError

SECRET = "hf_THETOKENTHATNOBODYMAYSEE"


def read(text: str, folder: Path, **environ: str) -> Manifest:
    path = folder / "deploy.yaml"
    path.write_text(text, "utf-8")
    return read_manifest(path, {"hf_token": SECRET, **environ})


def test_every_key_of_a_manifest_is_read(tmp_path: Path) -> None:
    text = """\
name: my model
mode: load_balanced
image: registry.example.com:5000/a/b@sha256:0123
args: serve --port 80
env: {PORT: 8000, PORT_HEALTH: "8001", KV_UNIFIED: on, SEED: 007, A_TOKEN: {secret: a_token}}
gpu: {pools: [ADA_24], excluded_types: [NVIDIA L4], count: 2, min_cuda: 12.10}
workers: {min: 1, max: 4, idle_timeout_s: 90}
scaling: {requests_per_worker: 8}
timeout_s: 30
flashboot: priority
container_disk_gb: 15
registry: reg_1
data_centers: [EU-RO-1]
volume: {name: v, size_gb: 10, data_center: EU-RO-1, tier: high_performance}
"""
    made = read(text, tmp_path)
    assert made == Manifest(
        name="my model",
        mode="load_balanced",
        image="registry.example.com:5000/a/b@sha256:0123",
        env={
            "PORT": EnvValue("8000", False),
            "PORT_HEALTH": EnvValue("8001", False),
            "KV_UNIFIED": EnvValue("on", False),
            "SEED": EnvValue("007", False),
            "A_TOKEN": EnvValue("{{ RUNPOD_SECRET_a_token }}", True),
            "MODE": EnvValue("http", False),
        },
        gpu=Gpu(pools=("ADA_24",), excluded_types=("NVIDIA L4",), count=2, min_cuda="12.10"),
        workers=Workers(min=1, max=4, idle_timeout_s=90),
        scaling=Scaling(requests_per_worker=8),
        timeout_s=30,
        flashboot="priority",
        container_disk_gb=15,
        args="serve --port 80",
        ports=("8000/http", "8001/http"),
        registry="reg_1",
        volume=Volume(name="v", size_gb=10, data_center="EU-RO-1", tier="high_performance"),
        data_centers=("EU-RO-1",),
    )
    assert list(notes_on(made)) == ["A_TOKEN is not a setting of the worker; passed on unchanged."]


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    made = read("name: a\nimage: b:1\ncpu: [{flavor: cpu5c}]", tmp_path)
    assert (made.mode, made.flashboot, made.timeout_s, made.container_disk_gb) == ("queue", "on", 600, 20)
    assert (made.workers.min, made.workers.max, made.idle_timeout_s) == (0, 3, 10)
    assert made.scaling == Scaling(queue_delay_s=4.0)
    assert (made.cpu, made.ports, made.volume, made.data_centers) == ((Cpu(flavor="cpu5c", vcpus=2),), (), None, None)
    assert made.env == {"MODE": EnvValue("queue", False)}


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    made = read(MANIFEST, tmp_path)
    assert made.env["HF_TOKEN"].text == SECRET
    assert SECRET not in repr(made)


def test_a_reference_to_runpods_secrets_passes_through(tmp_path: Path) -> None:
    made = read(MANIFEST.replace("${HF_TOKEN}", '"{{ RUNPOD_SECRET_hf }}"'), tmp_path)
    assert made.env["HF_TOKEN"] == EnvValue("{{ RUNPOD_SECRET_hf }}", True)


def test_names_are_read_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "deploy.yaml"
    path.write_text("name: a\nimage: OWNER\nenv: {HF_TOKEN: $}\nvolume: {name: v}", "utf-8")
    assert read_names(path) == Names(name="a", volume=VolumeName(name="v"))


FAULTS = [
    ("name: tiny", "name: ''", "line 1: name must not be empty"),
    ("name: tiny\n", "", "name is missing"),
    ("name: tiny", "name: tiny-fb", "without -fb at the end, not 'tiny-fb'"),
    ("mode: queue", "mode: both", "line 2: mode must be 'queue' or 'load_balanced', not 'both'"),
    ("me/worker", "OWNER/worker", "image still contains the example's OWNER"),
    ("image: ghcr.io/me/worker-gguf:0.1.0-cu118\n", "", "image is missing"),
    ("N_CTX: 4096", "N_CTX: 8k", "N_CTX='8k' is not valid: expected a whole number"),
    ("N_CTX: 4096", "N_CTXX: 4096", "env.N_CTXX is not a setting of the worker. Did you mean N_CTX?"),
    ("N_CTX: 4096", "N_CTX: [1, 2]", "env.N_CTX must be a single value"),
    ("N_CTX: 4096", "N_CTX:", "env.N_CTX has no value"),
    ("N_CTX: 4096", "n_ctx: 1024\n  N_CTX: 4096", "env.N_CTX is defined twice"),
    ("N_CTX: 4096", "N_CTX: 1024\n  N_CTX: 4096", "line 7: env.N_CTX is defined twice"),
    ("N_CTX: 4096", "MODEL: other", "env.MODEL means the same as the key `model`"),
    ("N_CTX: 4096", "MODE: http", "env.MODE means the same as the key `mode`"),
    ("N_CTX: 4096", "TYPE_V: q8_0\n  FLASH_ATTN: off", "TYPE_V=q8_0 needs flash attention"),
    ("N_CTX: 4096", "N_CTX: ctx-${X}", "env.N_CTX mixes ${...} with other text"),
    ("N_CTX: 4096", "N_CTX: ${NOT_SET}", "refers to ${NOT_SET}, which is not set"),
    ("N_CTX: 4096", "N_CTX: {secrets: a}", "env.N_CTX must be a value, ${VARIABLE}, or secret: NAME"),
    ("N_CTX: 4096", "N_CTX: {{ RUNPOD_SECRET_a }}", "needs quotes"),
    ("N_CTX: 4096", "A B: 4096", "env.A B is not the name of a variable"),
    ("N_CTX: 4096", "API_KEYS: sk-plain", "env.API_KEYS contains a secret in plain text. Use ${API_KEYS}"),
    ("N_CTX: 4096", "AWS_SECRET_ACCESS_KEY: plain", "env.AWS_SECRET_ACCESS_KEY contains a secret in plain text"),
    ("pools:", "gpuTypeIds:", "gpu.pools is missing"),
    ("pools: [AMPERE_24, ADA_24]", "pools: [ADA_24, ADA_24]", "gpu.pools has the same entry twice"),
    ("pools: [AMPERE_24, ADA_24]", "pools: ADA_24", "gpu.pools must be a list"),
    ("gpu:", "cpu: [{flavor: cpu5c}]\ngpu:", "one of gpu and cpu is needed, and not both"),
    ("  pools", "  cuda_versions: ['12']\n  pools", "gpu.cuda_versions[0] must be a version such as 12.4, not '12'"),
    ("  pools", "  min_cuda: 12.1\n  cuda_versions: ['12.8']\n  pools", "takes min_cuda or cuda_versions, not both"),
    ("  pools", "  excluded_types: [-NVIDIA L4]\n  pools", "without the leading -"),
    ("  pools", "  count: 0\n  pools", "gpu.count must be at least 1, not '0'"),
    ("mode: queue", "gpuTypeIds: [x]", "gpuTypeIds is not a key of this file: RunPod's API takes pools"),
    ("mode: queue", "cached_model: x", "cached_model is not a key of this file: RunPod's API has no cached models"),
    ("mode: queue", "time_out_s: 5", "time_out_s is not a key of this file. Did you mean timeout_s?"),
    ("mode: queue", "workers: {mix: 1}", "workers.mix is not a key of this file. Did you mean min?"),
    ("mode: queue", "workers: {min: 5, max: 2}", "workers.max is 2, less than workers.min, which is 5"),
    ("mode: queue", "workers: 3", "workers must be a group"),
    ("mode: queue", "scaling: {}", "scaling takes either"),
    ("mode: queue", "scaling: {queue_delay_s: 0.1}", "at least 0.5, not '0.1'"),
    ("mode: queue", "mode: load_balanced\nscaling: {queue_delay_s: 4}", "needs a queue"),
    ("mode: queue", "scaling: {requests_per_worker: 4}\nworkers: {idle_timeout_s: 9}", "is not accepted by"),
    ("mode: queue", "ports: [80]", "ports[0] must be a port such as 8000/http, not '80'"),
    ("mode: queue", "timeout_s: 600s", "timeout_s must be a whole number"),
    ("mode: queue", "data_centers: [US-KS-2]", "line 2: data_centers must be [EU-RO-1], the location of the volume"),
    ("size_gb: 30", "size_gb: 5", "volume.size_gb must be at least 10, not '5'"),
    ("  data_center: EU-RO-1\n", "", "volume.data_center is missing"),
    ("mode: queue", "mode: &a queue\nflashboot: *a", "flashboot uses an anchor"),
    ("mode: queue", "mode: [queue", "line 3: invalid YAML"),
    ("mode: queue", "mode: queue\x07", "characters that YAML does not allow"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "said"), FAULTS, ids=[said[:40] for _, _, said in FAULTS])
def test_a_fault_names_the_key(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in MANIFEST
    with pytest.raises(ManifestError) as caught:
        read(MANIFEST.replace(before, after, 1), tmp_path)
    assert said in caught.value.message
    assert caught.value.message.startswith("deploy.yaml")


def test_every_fault_is_reported_with_its_line_and_a_typing_error_first(tmp_path: Path) -> None:
    text = MANIFEST.replace("size_gb: 30", "size_bg: 30").replace("mode: queue", "mode: both\nscaling: {}")
    with pytest.raises(ManifestError) as caught:
        read(text, tmp_path)
    assert caught.value.message.splitlines() == [
        "deploy.yaml, line 2: mode must be 'queue' or 'load_balanced', not 'both'.",
        "deploy.yaml, line 3: scaling takes either queue_delay_s or requests_per_worker.",
        "deploy.yaml, line 13: volume.size_bg is not a key of this file. Did you mean size_gb?",
        "deploy.yaml: volume.size_gb is missing: space for the model, in GB.",
    ]


def test_a_port_that_is_a_reference_cannot_be_exposed(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"env\.PORT must be a number and not a reference"):
        read(BALANCED.replace("N_CTX: 4096", "PORT: ${P}"), tmp_path, p="80")


@pytest.mark.parametrize("text", ["", "- a", "just words", "\x00", "a: !!python/object:os.system x"])
def test_a_file_that_is_not_a_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError):
        read(text, tmp_path)


def test_all_mistakes_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    text = MANIFEST.replace("N_CTX: 4096", "N_CTX: 8k\n  N_PARALEL: 3\n  TOP_P: 3").replace("30", "many")
    with pytest.raises(ManifestError) as caught:
        read(f"{text}foo: 1\n", tmp_path)
    lines = caught.value.message.splitlines()
    assert all("deploy.yaml, line " in line for line in lines)
    for words in (
        "Did you mean N_PARALLEL?",
        "N_CTX='8k' is not valid",
        "TOP_P='3' is not valid",
        "volume.size_gb must be",
        "foo is",
    ):
        assert sum(words in line for line in lines) == 1, lines


def test_a_secret_in_a_bad_value_is_masked(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read(MANIFEST.replace("N_CTX: 4096", "N_CTX: ${HF_TOKEN}"), tmp_path)
    assert "N_CTX='***' is not valid" in caught.value.message


def test_the_error_of_a_missing_file_has_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"No such file.*deploy/deploy\.yaml"):
        read_manifest(tmp_path / "none.yaml", {})
    (tmp_path / "latin").write_bytes(b"name: caf\xe9")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "latin", {})
