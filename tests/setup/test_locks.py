"""Tests that every requirement of the locks has an exact version and a hash."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.setup.locks import canonical, offer_newer, pins, unpinned

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_requirement_has_a_version_and_a_hash(lock: Path) -> None:
    assert pins(lock)
    assert unpinned(lock) == []


@pytest.mark.parametrize("line", ["pydantic[email]>=2.7 --hash=sha256:00", "pydantic==2.7", "pydantic"])
def test_a_requirement_without_one_of_them_is_found(line: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# a comment\nnumpy==2.0 \\\n    --hash=sha256:00\n{line}\n")
    assert unpinned(lock) == [line]


def test_the_worker_has_the_versions_that_are_tested() -> None:
    worker, dev = (pins(ROOT / "requirements" / name) for name in ("worker.txt", "dev.txt"))
    assert worker.items() <= dev.items()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        canonical(requirement.split(">")[0].split("=")[0].split("<")[0]) for requirement in project["dependencies"]
    }
    assert named <= pins(ROOT / "requirements" / "worker.txt").keys()


def test_a_newer_release_is_a_wheel_that_pip_takes(tmp_path: Path) -> None:
    (path,) = offer_newer(["huggingface-hub"], tmp_path).values()
    assert path.name == "huggingface_hub-9999-py3-none-any.whl"
