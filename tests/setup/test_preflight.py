"""Tests of the check before a set-up: the versions of Python, and the missing tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def preflight(python: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    environment.pop("CXX", None)
    command = ["/bin/sh", str(ROOT / "requirements" / "preflight"), str(python), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def python(folder: Path, version: str, *, has_venv: bool = True) -> Path:
    """Create a stand-in for Python that answers both questions of the preflight like this version."""
    path = folder / f"python{version}"
    major, minor = version.split(".")
    path.write_text(
        "#!/bin/sh\n"
        f'case "$2" in *version_info*) echo "{version}"; '
        f"[ {major} -eq 3 ] && [ {minor} -ge 11 ] && [ {minor} -le 13 ];; "
        f"*) exit {0 if has_venv else 1};; esac\n"
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_versions_of_the_lock_are_taken(version: str, tmp_path: Path) -> None:
    assert preflight(python(tmp_path, version), "index").returncode == 0


@pytest.mark.parametrize("version", ["3.10", "3.14"])
def test_another_version_is_refused_with_those_that_are_taken(version: str, tmp_path: Path) -> None:
    done = preflight(python(tmp_path, version), "index")
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert "PYTHON=" in done.stderr


def test_a_missing_python_is_an_error(tmp_path: Path) -> None:
    assert "is needed" in preflight(tmp_path / "none").stderr


def test_a_python_without_venv_is_refused(tmp_path: Path) -> None:
    done = preflight(python(tmp_path, "3.11", has_venv=False), "index")
    assert "python3-venv" in done.stderr


def test_a_missing_compiler_is_an_error_unless_a_wheel_is_used(tmp_path: Path) -> None:
    found = python(tmp_path, "3.11")
    assert "C++ compiler" in preflight(found, path=str(tmp_path)).stderr
    assert preflight(found, "https://example.test/whl", path=str(tmp_path)).returncode == 0
