"""Tests of making an environment from a bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gpu_check.environment import prepare
from bench.gpu_check.manifest import BundleError, read_manifest


def change(made: Path, **values: object) -> None:
    read_manifest(made)._replace(**values).write(made)  # type: ignore[arg-type]


def test_its_packages_and_its_library_come_first(made: Path, tmp_path: Path) -> None:
    variables, server = prepare(made, tmp_path / "work")
    assert server is None
    code = "import h11, idna, llama_cpp; print(h11.is_small, idna.is_small, llama_cpp.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    folder = tmp_path / "work" / "environment"
    assert done.stdout.split() == ["True", "True", str(folder / "llama_cpp" / "llama_cpp" / "__init__.py")]
    assert variables["LD_LIBRARY_PATH"].split(os.pathsep)[0] == str(folder / "llama_cpp" / "llama_cpp" / "lib")


def test_it_is_made_once_and_again_for_another_bundle(made: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    prepare(made, work)
    left = work / "environment" / "site" / "left.txt"
    left.write_text("from the first time")
    prepare(made, work)
    assert left.exists()
    change(made, present={})
    prepare(made, work)
    assert not left.exists()


def test_a_half_made_environment_is_made_again(made: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    prepare(made, work)
    (work / "environment" / "ready").unlink()
    (work / "environment" / "site" / "h11.py").unlink()
    prepare(made, work)
    assert (work / "environment" / "site" / "h11.py").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda made: _truncate(made / "llama_cpp.tar.xz"), "llama_cpp.tar.xz is damaged. Carry the bundle again."),
        (lambda made: (made / "llama_cpp.tar.xz").unlink(), "llama_cpp.tar.xz is missing. Carry the whole bundle."),
        (lambda made: _truncate(made / "requirements.txt"), "requirements.txt is damaged"),
        (lambda made: _truncate(made / "wheels" / "h11-99-py3-none-any.whl"), "pip cannot install the wheels"),
        (lambda made: (made / "wheels" / "h11-99-py3-none-any.whl").unlink(), "pip cannot install the wheels"),
        (lambda made: (made / "bundle.json").unlink(), "is no bundle: it has no bundle.json"),
        (lambda made: (made / "bundle.json").write_text("{"), "bundle.json is damaged"),
        (lambda made: (made / "bundle.json").write_text("{}"), "is from another version of this project"),
        (lambda made: change(made, python="3.9"), "The bundle is for Python 3.9, and "),
        (lambda made: change(made, machine="riscv64"), "The bundle is for riscv64, and this machine is "),
        (lambda made: change(made, present={"not-installed": "1"}), "The bundle leaves out not-installed, and "),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_taken_for_ready(
    made: Path, tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(made)
    with pytest.raises(BundleError) as caught:
        prepare(made, tmp_path / "work")
    assert sentence in str(caught.value)
    assert not (tmp_path / "work" / "environment" / "ready").exists()


def test_what_the_machine_has_itself_is_named(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(made, tmp_path / "work")
    assert "is this machine's own (the lock has " in capsys.readouterr().err
