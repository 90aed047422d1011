"""Tests of the image's files without a build. `make image-test` builds it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
BAKE = (ROOT / "docker-bake.hcl").read_text("utf-8")
SCRIPTS = sorted((ROOT / "image").iterdir())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tool(name: str) -> str:
    """Return a tool of this environment or of the machine, or skip the test."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def complaints(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else ""


def test_hadolint_has_nothing_to_say() -> None:
    assert complaints(tool("hadolint"), "Dockerfile") == ""


def test_actionlint_has_nothing_to_say() -> None:
    assert complaints(tool("actionlint"), *map(str, WORKFLOWS)) == ""


def test_shellcheck_has_nothing_to_say() -> None:
    assert complaints(tool("shellcheck"), *map(str, SCRIPTS)) == ""


def test_every_argument_of_the_variants_is_one_of_the_dockerfile() -> None:
    given = set(re.findall(r"^    ([A-Z_]+)\s+=", BAKE, re.MULTILINE))
    assert {"BASE_IMAGE", "LLAMA_WHEEL_INDEX"} <= given
    assert given <= set(re.findall(r"^ARG ([A-Z_]+)", DOCKERFILE, re.MULTILINE))


def test_the_default_variant_is_the_dockerfile_as_it_is() -> None:
    base = re.search(r"^ARG BASE_IMAGE=(\S+)", DOCKERFILE, re.MULTILINE)
    index = re.search(r"^ARG LLAMA_WHEEL_INDEX=\S+/(\w+)", DOCKERFILE, re.MULTILINE)
    assert base
    assert index
    assert re.search(rf'BASE_IMAGE\s+= "{re.escape(base[1])}"\n\s+LLAMA_WHEEL_INDEX = "\$\{{WHEELS}}/{index[1]}"', BAKE)


def test_the_build_sees_all_that_it_copies_and_nothing_else() -> None:
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for word in line.split()
        if word != "\\"
    }
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[lines.index("*") - 1].startswith("#")
    assert {path if path in let_through else path.split("/")[0] for path in copied} == let_through
    assert all((ROOT / path).exists() for path in copied)


def test_every_script_can_be_run() -> None:
    assert SCRIPTS
    assert [path.name for path in SCRIPTS if not os.access(path, os.X_OK)] == []


def test_every_action_is_pinned_to_a_version() -> None:
    used = [name for path in WORKFLOWS for name in re.findall(r"uses: (\S+)", path.read_text("utf-8"))]
    assert "runpod/runpod-test-runner@v1" in used
    assert [name for name in used if not re.search(r"@v\d|^\./", name)] == []
