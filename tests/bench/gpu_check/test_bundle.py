"""Tests of making a bundle, from local wheels without network."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.gpu_check import bundle
from bench.gpu_check.environment import ROOT
from bench.gpu_check.manifest import BundleError, read_manifest
from tests.bench.gpu_check.conftest import ALL, CARRIED, HERE, LOCK, pack_library


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def own_wheels(wanted: bundle.Wanted, tmp_path: Path) -> Path:
    assert wanted.wheels is not None
    return Path(shutil.copytree(wanted.wheels, tmp_path / "own-wheels"))


def test_it_has_the_wheels_with_their_hashes_and_the_library_as_it_was(wanted: bundle.Wanted, made: Path) -> None:
    out, manifest = made, read_manifest(made)
    assert files(out) == {
        "bundle.json",
        "check.sh",
        "llama_cpp.tar.xz",
        "requirements.txt",
        *(f"wheels/{name}-99-py3-none-any.whl" for name in CARRIED),
    }
    assert (out / "llama_cpp.tar.xz").read_bytes() == wanted.llama_cpp.read_bytes()
    requirements = (out / "requirements.txt").read_text()
    for name in CARRIED:
        wheel = out / "wheels" / f"{name}-99-py3-none-any.whl"
        assert f"{name}==99" in requirements
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() in requirements
    assert manifest.python == HERE
    assert manifest.llama_cpp == "llama_cpp.tar.xz"
    assert set(manifest.present) == set(ALL) - set(CARRIED)


def test_everything_that_a_worker_over_http_needs_is_carried_and_the_queue_is_not() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {Requirement(text).name for text in project["dependencies"]}
    assert set(bundle.LEFT_OUT) < direct
    assert direct - set(bundle.LEFT_OUT) < set(ALL)
    assert {"numpy", "pydantic-core", "h11", "anyio", "diskcache"} < set(ALL)
    assert {"runpod", "boto3", "colorama", "llama-cpp-python"}.isdisjoint(ALL)
    assert set(ALL) <= set(bundle.locked(LOCK.read_text()))


def test_markers_are_those_of_the_other_python() -> None:
    assert bundle.closure(["uvicorn"], "3.10") == ["click", "h11", "typing-extensions", "uvicorn"]
    assert bundle.closure(["uvicorn"], "3.12") == ["click", "h11", "uvicorn"]


def test_a_folder_and_a_program_are_packed(wanted: bundle.Wanted, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    with tarfile.open(wanted.llama_cpp) as packed:
        packed.extractall(folder, filter="data")
    (folder / "llama_cpp" / "__pycache__").mkdir()
    (folder / "llama_cpp" / "__pycache__" / "old.pyc").write_text("old")
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\n")
    out = tmp_path / "bundle"
    without_wheels = replace(wanted, present=frozenset(ALL), llama_server=server)
    for llama_cpp in (folder, folder / "llama_cpp"):
        bundle.make(replace(without_wheels, llama_cpp=llama_cpp), out)
        with tarfile.open(out / "llama_cpp.tar.xz") as packed:
            names = [name.removeprefix("./") for name in packed.getnames()]
        assert "llama_cpp/__init__.py" in names
        assert not any("__pycache__" in name for name in names)
    with tarfile.open(out / "llama-server.tar.xz") as packed:
        assert packed.getnames() == ["llama-server"]


def test_a_bundle_that_is_too_large_is_refused_and_the_older_one_stays(
    wanted: bundle.Wanted, made: Path, tmp_path: Path
) -> None:
    out, before = made, files(made)
    with pytest.raises(BundleError) as caught:
        bundle.make(replace(wanted, limit_mib=0.001), out)
    sentence = str(caught.value)
    assert "more than 0.001. The largest files, in MiB: " in sentence
    assert "GPU_PRESENT" in sentence
    assert files(out) == before
    assert [path.name for path in tmp_path.glob(".gpu-bundle-*")] == []


def test_a_wheel_with_another_hash_is_refused(wanted: bundle.Wanted, tmp_path: Path) -> None:
    wheels = own_wheels(wanted, tmp_path)
    with (wheels / "idna-99-py3-none-any.whl").open("ab") as file:
        file.write(b"changed")
    with pytest.raises(BundleError, match=r"pip cannot fetch the wheels(.|\n)*HASHES"):
        bundle.make(replace(wanted, wheels=wheels), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_missing_wheel_is_named(wanted: bundle.Wanted, tmp_path: Path) -> None:
    wheels = own_wheels(wanted, tmp_path)
    (wheels / "h11-99-py3-none-any.whl").unlink()
    with pytest.raises(BundleError, match="h11==99"):
        bundle.make(replace(wanted, wheels=wheels), tmp_path / "bundle")


def test_a_library_of_another_version_is_refused(wanted: bundle.Wanted, tmp_path: Path) -> None:
    wanted = replace(wanted, present=frozenset(ALL))
    old = pack_library(tmp_path / "old.tar.xz", "0.1.2")
    with pytest.raises(BundleError, match=r"is version 0\.1\.2, and the lock pins"):
        bundle.make(replace(wanted, llama_cpp=old), tmp_path / "bundle")
    other = pack_library(tmp_path / "other.tar.xz", "0.1.2", "something_else")
    with pytest.raises(BundleError, match=r"has no llama_cpp/__init__\.py"):
        bundle.make(replace(wanted, llama_cpp=other), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"llama_cpp": Path("/nowhere.tar.xz")}, "LLAMA_CPP_CUDA=/nowhere.tar.xz does not exist"),
        ({"llama_server": Path("/nowhere")}, "LLAMA_SERVER=/nowhere does not exist"),
        ({"present": frozenset(ALL) | {"torch"}}, "GPU_PRESENT names torch, which the worker does not need there"),
        ({"python": "three"}, "GPU_PYTHON=three is no version of Python"),
    ],
)
def test_wrong_variables_are_named(
    wanted: bundle.Wanted, tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(BundleError) as caught:
        bundle.make(replace(wanted, **change), tmp_path / "bundle")  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_another_folder_is_not_replaced(wanted: bundle.Wanted, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(BundleError, match="is not empty and no bundle"):
        bundle.make(wanted, tmp_path / "mine")
    assert files(tmp_path / "mine") == {"notes.txt"}


def test_the_command_says_what_it_made_and_what_is_missing(
    wanted: bundle.Wanted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.main([str(tmp_path / "bundle")]) == 1
    assert "LLAMA_CPP_CUDA" in capsys.readouterr().err
    arguments = ["--llama-cpp", str(wanted.llama_cpp), "--python", HERE, "--present", " ".join(ALL)]
    assert bundle.main([str(tmp_path / "bundle"), *arguments]) == 0
    assert f"0.0 MiB for Python {HERE}" in capsys.readouterr().out
