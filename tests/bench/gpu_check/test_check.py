"""Runs the check on the processor: the whole of it, from a bundle, with too little time, and without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from bench import models
from bench.gpu_check import bundle
from bench.gpu_check.environment import ROOT
from bench.gpu_check.job import Job
from bench.gpu_check.outcome import Outcome
from bench.gpu_check.parts import offload
from tests.bench.gpu_check.conftest import ALL
from tests.waiting import wait_until

TIMEOUT_S = 1500


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models are written once."""
    return tmp_path_factory.mktemp("work")


def check(work: Path, results: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.gpu_check", "--work", str(work), "--results", str(results), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def written(results: Path) -> dict[str, Any]:
    (path,) = results.glob("gpu-none-*.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def printed(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """Return the figures, which are the last lines, after an empty one."""
    lines = done.stdout.rstrip().split("\n\n")[-1].splitlines()
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


@pytest.mark.benchmark
def test_all_parts_run_on_the_processor_and_hold(work: Path, tmp_path: Path) -> None:
    done = check(work, tmp_path, "--cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nAll checks hold.\n" in done.stdout
    figures = printed(done)
    assert figures["prompts_right"] == figures["prompts_all"] >= 60
    assert figures["checks_failed"] == figures["memory_processes_left"] == 0
    for name in ("tiny", "tiny-moe"):
        assert figures[f"plan_{name}_used_mib"] > 20
        for c in (1, 2):
            assert figures[f"{name}_limit_ratio_c{c}"] > 0
    assert 0 < figures["crash_ready_s"] <= figures["crash_next_answer_s"] + 1
    parts = written(tmp_path)["parts"]
    assert list(parts) == ["prompts", "offload", "crash", "plan", "bench-dense", "bench-experts", "memory"]
    assert {check["name"] for check in parts["crash"]["checks"]} == {
        "running request",
        "next request",
        "restart",
        "memory",
    }


@pytest.mark.benchmark
def test_a_bundle_with_the_real_library_serves(work: Path, tmp_path: Path, wanted: bundle.Wanted) -> None:
    """The wheels stay those of this environment, because no index can be asked here."""
    library = tmp_path / "library.tar"
    with tarfile.open(library, "w") as packed:
        packed.add(Path(llama_cpp.__file__).parent, "llama_cpp")
    out = tmp_path / "bundle"
    bundle.make(replace(wanted, llama_cpp=library, present=frozenset(ALL), limit_mib=1000), out)
    runner = ["sh", str(out / "check.sh"), "--cpu", "--only", "offload", "--work", str(tmp_path / "work")]
    runner += ["--results", str(tmp_path)]
    env = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(runner, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The environment is ready" in done.stderr
    assert printed(done)["offload_ok"] == 1


@pytest.mark.benchmark
def test_too_little_time_ends_a_part_and_leaves_no_process(work: Path, tmp_path: Path) -> None:
    models.ensure(models.SHAPES["tiny"], work / "models")
    done = check(work, tmp_path, "--cpu", "--only", "bench-dense", "--limit-s", "3")
    assert done.returncode == 1
    assert "\nFailed: bench-dense.\n" in done.stdout
    assert "not measured: " in done.stdout
    assert printed(done)["memory_processes_left"] == 0


@pytest.mark.benchmark
def test_a_later_run_does_only_what_is_missing(work: Path, tmp_path: Path) -> None:
    assert check(work, tmp_path, "--cpu", "--only", "offload").returncode == 0
    before = written(tmp_path)["parts"]["offload"]
    assert check(work, tmp_path, "--cpu", "--only", "offload,prompts", "--resume").returncode == 0
    parts = written(tmp_path)["parts"]
    assert list(parts) == ["prompts", "offload", "memory"]
    assert parts["offload"] == before


@pytest.mark.benchmark
def test_a_signal_ends_the_check_and_all_that_it_started(work: Path, tmp_path: Path) -> None:
    models.ensure(models.SHAPES["tiny"], work / "models")
    # The path is in the command of the part, and in the environment of its worker.
    own = tmp_path / "work"
    command = [sys.executable, "-m", "bench.gpu_check", "--cpu", "--only", "crash", "--work", str(own)]
    command += ["--models", str(work / "models"), "--results", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        wait_until((own / "crash-worker.log").exists, timeout_s=60)
        running.terminate()
        assert running.wait(60) == 143
    wait_until(lambda: not processes_with(str(own)) and not processes_with(str(work / "models")), timeout_s=60)


def processes_with(text: str) -> list[str]:
    """Return the processes that have a text in their command or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text.encode() in (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes():
                found.append(folder.name)
    return found


def test_without_time_no_part_runs_and_each_says_so(work: Path, tmp_path: Path) -> None:
    done = check(work, tmp_path, "--cpu", "--only", "prompts", "--limit-s", "0.1")
    assert done.returncode == 1
    assert "FAILED prompts, completed: the time of the check was over; run it with --only prompts" in done.stdout


def test_without_a_gpu_it_says_so_with_a_code_of_its_own(
    work: Path, tmp_path: Path, nvidia_smi: Callable[..., None]
) -> None:
    nvidia_smi("No devices were found", 6)
    done = check(work, tmp_path)
    assert done.returncode == 3
    assert "This machine has no GPU that can be used" in done.stderr
    assert "With --cpu, the check runs on the processor." in done.stderr
    assert not list(tmp_path.glob("gpu-*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cpu", "--bundle", "nowhere"], "is no bundle: it has no bundle.json. Make one with `make gpu-bundle`."),
        (["--cpu", "--only", "speed"], "there is no part 'speed': the parts are prompts, "),
    ],
)
def test_wrong_use_has_a_code_of_its_own(work: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = check(work, tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_card_that_llama_cpp_does_not_use_fails_the_offload(
    work: Path, tmp_path: Path, nvidia_smi: Callable[..., None]
) -> None:
    """A card whose memory never rises, next to a build for the processor."""
    nvidia_smi("NVIDIA H200, 580.1, 143771, 4")
    path = models.ensure(models.SHAPES["tiny"], work / "models")
    outcome = Outcome(tmp_path / "offload.json")
    offload.measure(Job("offload", True, {"dense": str(path)}, str(tmp_path), 60), outcome)
    assert {check.name: check.ok for check in outcome.checks} == {
        "devices": False,
        "layers": False,
        "memory": False,
        "memory by ggml": False,
    }


def test_a_part_that_fails_does_not_stop_the_next_one(tmp_path: Path) -> None:
    """The model is damaged, and the prompts need none."""
    folder = tmp_path / "work"
    (folder / "models").mkdir(parents=True)
    models.path_of(models.SHAPES["tiny"], folder / "models").write_bytes(b"GGUF is not all")
    done = check(folder, tmp_path, "--cpu", "--only", "prompts,offload")
    assert done.returncode == 1
    assert "FAILED offload, completed: " in done.stdout
    assert printed(done)["prompts_ok"] == 1
