"""Tests of the projector beside a model: which file it is, and when it is not clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_gguf.store import LocalModel
from worker_gguf.store.beside import projector_beside


def found(folder: Path, model: str, *others: str, repo: str | None = None, revision: str | None = None) -> str | None:
    for name in (model, *others):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    local = projector_beside(LocalModel((folder / model,), 5, repo, revision, "cache" if repo else "path"))
    if local is None:
        return None
    assert local.size_bytes == 5
    return local.path.relative_to(folder).as_posix()


@pytest.mark.parametrize(
    ("model", "others", "expected"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", (), None),
        ("gemma-3-4b-it-Q4_K_M.gguf", ("mmproj-F16.gguf",), "mmproj-F16.gguf"),
        ("gemma-3-4b-it-Q4_K_M.gguf", ("mmproj-model-f16.gguf",), "mmproj-model-f16.gguf"),
        ("gemma-3-4b-it-Q4_K_M.gguf", ("mmproj-gemma-3-4b-it-f16.gguf",), "mmproj-gemma-3-4b-it-f16.gguf"),
        ("Qwen2.5-VL-7B-Q8_0.gguf", ("Qwen2.5-VL-7B-mmproj-bf16.gguf", "other.gguf"), "Qwen2.5-VL-7B-mmproj-bf16.gguf"),
        # The names of other models are not its own.
        ("a-7b-Q8_0.gguf", ("mmproj-b-7b-f16.gguf", "b-7b-Q8_0.gguf"), None),
        ("a-7b-Q8_0.gguf", ("mmproj-b-7b-f16.gguf", "mmproj-a-7b-f16.gguf", "b-7b-Q8_0.gguf"), "mmproj-a-7b-f16.gguf"),
        # Where there is no other model, it has any name.
        ("a-7b-Q8_0.gguf", ("mmproj-vision-f16.gguf",), "mmproj-vision-f16.gguf"),
        ("a-7b-Q8_0.gguf", ("mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"), "mmproj-F16.gguf"),
        ("a-7b-Q8_0.gguf", ("notes-about-mmproj.txt",), None),
    ],
)
def test_the_projector_of_a_model_in_a_folder(
    tmp_path: Path, model: str, others: tuple[str, ...], expected: str | None
) -> None:
    assert found(tmp_path, model, *others) == expected


def test_the_projector_of_a_repository_has_any_name_and_may_lie_one_folder_higher(tmp_path: Path) -> None:
    names = ("mmproj-something-f16.gguf", "Q8_0/other.gguf")
    assert found(tmp_path / "abc", "Q4_K_M/m-Q4_K_M.gguf", *names, repo="org/repo", revision="abc") == names[0]


def test_nothing_above_the_repository_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"1")
    assert found(tmp_path / "abc", "m-Q4_K_M.gguf", repo="org/repo", revision="abc") is None


def test_the_embedded_model_has_none(tmp_path: Path) -> None:
    (tmp_path / "mmproj-F16.gguf").write_bytes(b"1")
    local = LocalModel((tmp_path / "model.gguf",), 5, None, None, "embedded")
    assert projector_beside(local) is None
