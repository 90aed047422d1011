"""Tests that a whole model on disk is found without a network call, and that an incomplete one is not."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import worker_gguf.store
from worker_gguf.errors import ModelNotFound
from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef
from worker_gguf.store.resolve import LocalModel, locate

COMMIT = "a" * 40
OTHER = "b" * 40


def _snapshot(cache: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT, ref: str | None = "main") -> Path:
    """Lay out files as the Hub's cache does: blobs, links in a snapshot, a ref."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for name, content in files.items():
        blob = folder / "blobs" / name.replace("/", "_")
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    if ref:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return snapshot


def test_model_in_a_cache_is_found(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, "org/repo", {"m-Q4_K_M.gguf": b"1234", "m-Q8_0.gguf": b"12345678"})
    found = locate(HubRef("org/repo", quant="q8_0"), [tmp_path / "absent", tmp_path])
    assert found == LocalModel((snapshot / "m-Q8_0.gguf",), 8, "org/repo", COMMIT, "cache")
    assert found.path.name == "m-Q8_0.gguf"
    assert found.name == "org/repo/m-Q8_0.gguf"


def test_caches_are_tried_in_order(tmp_path: Path) -> None:
    first = _snapshot(tmp_path / "one", "org/repo", {"m-Q8_0.gguf": b"1"})
    _snapshot(tmp_path / "two", "org/repo", {"m-Q8_0.gguf": b"22"})
    found = locate(HubRef("org/repo", quant="Q8_0"), [tmp_path / "one", tmp_path / "two"])
    assert found is not None
    assert found.path == first / "m-Q8_0.gguf"


@pytest.mark.parametrize("folder", ["org/repo", "Org/REPO", "ORG/repo"])
def test_folder_is_found_in_any_case(tmp_path: Path, folder: str) -> None:
    _snapshot(tmp_path, folder, {"m-Q8_0.gguf": b"1"})
    assert locate(HubRef("Org/Repo", quant="Q8_0"), [tmp_path]) is not None


def test_exact_spelling_of_a_folder_comes_first(tmp_path: Path) -> None:
    _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"1"})
    exact = _snapshot(tmp_path, "Org/Repo", {"m-Q8_0.gguf": b"1"})
    found = locate(HubRef("Org/Repo", quant="Q8_0"), [tmp_path])
    assert found is not None
    assert found.path.parent == exact


@pytest.mark.parametrize("ref", [HubRef("org/repo"), HubRef("org/repo", quant="Q8_0")], ids=str)
def test_a_head_alone_in_a_cache_does_not_stand_for_its_model(tmp_path: Path, ref: HubRef) -> None:
    snapshot = _snapshot(tmp_path, "org/repo", {"MTP/m-MTP-Q8_0.gguf": b"1", "mtp-m-Q8_0.gguf": b"1"})
    assert locate(ref, [tmp_path]) is None
    named = locate(HubRef("org/repo", file="MTP/m-MTP-Q8_0.gguf"), [tmp_path])
    assert named is not None
    assert named.path == snapshot / "MTP/m-MTP-Q8_0.gguf"


def test_ref_decides_between_two_revisions(tmp_path: Path) -> None:
    _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"old"}, OTHER, ref="v1")
    _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"new"}, COMMIT)
    commits = {
        revision: found.revision
        for revision in (None, "main", "v1", OTHER, "v2")
        if (found := locate(HubRef("org/repo", quant="Q8_0", revision=revision), [tmp_path]))
    }
    assert commits == {None: COMMIT, "main": COMMIT, "v1": OTHER, OTHER: OTHER}


def test_snapshot_that_main_left_does_not_answer(tmp_path: Path) -> None:
    _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"old"}, OTHER, ref=None)
    _snapshot(tmp_path, "org/repo", {"m-Q4_0.gguf": b"new"}, COMMIT)
    assert locate(HubRef("org/repo", quant="Q8_0"), [tmp_path]) is None


def test_without_a_ref_the_newest_snapshot_answers(tmp_path: Path) -> None:
    old = _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"old"}, COMMIT, ref=None)
    new = _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"new"}, OTHER, ref=None)
    os.utime(old, (1, 1))
    os.utime(new, (2, 2))
    found = locate(HubRef("org/repo", quant="Q8_0"), [tmp_path])
    assert found is not None
    assert found.revision == OTHER
    assert locate(HubRef("org/repo", quant="Q8_0", revision="v1"), [tmp_path]) is None


def test_ref_that_leads_out_of_the_cache_is_ignored(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"1"})
    (snapshot.parent.parent / "refs" / "main").write_text("../../..")
    assert locate(HubRef("org/repo", quant="Q8_0"), [tmp_path]) is None


def test_all_parts_are_needed(tmp_path: Path) -> None:
    names = [f"Q4_K_M/m-0000{n}-of-00002.gguf" for n in (1, 2)]
    snapshot = _snapshot(tmp_path, "org/repo", dict.fromkeys(names, b"12"))
    found = locate(HubRef("org/repo", quant="Q4_K_M"), [tmp_path])
    assert found == LocalModel(tuple(snapshot / name for name in names), 4, "org/repo", COMMIT, "cache")
    (snapshot / names[1]).unlink()
    assert locate(HubRef("org/repo", quant="Q4_K_M"), [tmp_path]) is None


def test_link_to_a_blob_that_is_gone_is_no_file(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, "org/repo", {"m-Q8_0.gguf": b"1"})
    (snapshot / "m-Q8_0.gguf").resolve().unlink()
    assert locate(HubRef("org/repo", quant="Q8_0"), [tmp_path]) is None


def test_whole_repository_in_a_cache_answers_by_preference(tmp_path: Path) -> None:
    names = ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf"]
    _snapshot(tmp_path, "org/repo", dict.fromkeys(names, b"1"))
    found = locate(HubRef("org/repo"), [tmp_path])
    assert found is not None
    assert found.path.name == "m-Q4_K_M.gguf"


def test_ambiguous_quant_in_a_cache_is_refused(tmp_path: Path) -> None:
    _snapshot(tmp_path, "org/repo", {"a-Q8_0.gguf": b"1", "b-Q8_0.gguf": b"1"})
    with pytest.raises(ModelNotFound, match="several models"):
        locate(HubRef("org/repo", quant="Q8_0"), [tmp_path])


@pytest.mark.parametrize("ref", [HubRef("org/repo"), UrlRef("https://example.org/x.gguf")])
def test_what_is_not_here_is_none(tmp_path: Path, ref: ModelRef) -> None:
    assert locate(ref, [tmp_path, tmp_path / "absent"]) is None
    assert locate(ref, []) is None


@pytest.mark.parametrize("folder", ["org/repo", "ORG/Repo"])
def test_plain_folder_of_the_image_comes_first(tmp_path: Path, folder: str) -> None:
    baked = tmp_path / "models"
    (baked / folder).mkdir(parents=True)
    (baked / folder / "m-Q8_0.gguf").write_bytes(b"image")
    _snapshot(tmp_path / "cache", "org/repo", {"m-Q8_0.gguf": b"cache", "m-Q4_0.gguf": b"cache"})
    by_quant = {
        quant: found.source
        for quant in ("Q8_0", "Q4_0")
        if (found := locate(HubRef("org/repo", quant), [tmp_path / "cache"], baked_dir=baked))
    }
    assert by_quant == {"Q8_0": "image", "Q4_0": "cache"}
    named = locate(HubRef("org/repo", "Q8_0", revision="v1"), [], baked_dir=baked)
    assert named is None  # a plain folder does not say which revision it is


def test_hub_cache_in_the_image_answers(tmp_path: Path) -> None:
    _snapshot(tmp_path, "Org/Repo", {"m-Q8_0.gguf": b"1"})
    found = locate(HubRef("org/repo", "Q8_0", revision=COMMIT), [], baked_dir=tmp_path)
    assert found is not None
    assert (found.source, found.revision) == ("image", COMMIT)


def test_file_of_the_image_answers_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "m-Q8_0.gguf").write_bytes(b"1")
    assert locate(HubRef("org/repo", file="m-Q8_0.gguf"), [], baked_dir=tmp_path) is not None
    assert locate(HubRef("org/repo", quant="Q8_0"), [], baked_dir=tmp_path) is None
    assert locate(UrlRef("https://example.org/a/m-Q8_0.gguf?x=1"), [], baked_dir=tmp_path) is not None
    assert locate(HubRef("org/repo"), [], baked_dir=tmp_path / "absent") is None


@pytest.mark.parametrize("level", ["file", "snapshot", "repo"])
def test_link_out_of_the_cache_is_not_followed(tmp_path: Path, level: str) -> None:
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    snapshot = _snapshot(elsewhere, "org/repo", {"m-Q8_0.gguf": b"1"})
    steps = {"file": snapshot / "m-Q8_0.gguf", "snapshot": snapshot, "repo": elsewhere / "models--org--repo"}
    link = cache / steps[level].relative_to(elsewhere)
    link.parent.mkdir(parents=True)
    link.symlink_to(steps[level])
    assert locate(HubRef("org/repo", "Q8_0"), [cache]) is None


def test_cache_that_is_itself_a_link_is_read(tmp_path: Path) -> None:
    _snapshot(tmp_path / "real", "org/repo", {"m-Q8_0.gguf": b"1"})
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    assert locate(HubRef("org/repo", "Q8_0"), [tmp_path / "cache"]) is not None


def test_projector_in_a_cache_is_found_by_its_kind(tmp_path: Path) -> None:
    names = ["m-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"]
    _snapshot(tmp_path, "org/repo", dict.fromkeys(names, b"1"))
    found = locate(HubRef("org/repo"), [tmp_path], kind="mmproj")
    assert found is not None
    assert found.path.name == "mmproj-F16.gguf"


def test_a_plan_chooses_among_the_models_on_disk(tmp_path: Path) -> None:
    _snapshot(tmp_path, "org/repo", {"m-Q4_K_M.gguf": b"1", "m-Q8_0.gguf": b"22"})
    found = locate(HubRef("org/repo"), [tmp_path], prefer=lambda models: max(models, key=lambda m: m.size_bytes))
    assert found is not None
    assert found.path.name == "m-Q8_0.gguf"


def test_path_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"123")
    assert locate(PathRef(path), []) == LocalModel((path,), 3, None, None, "path")


def test_path_of_one_part_finds_all(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    for path in paths:
        path.write_bytes(b"12")
    assert locate(PathRef(paths[0]), []) == LocalModel(tuple(paths), 4, None, None, "path")
    paths[1].unlink()
    with pytest.raises(ModelNotFound, match="1 of the 2 parts"):
        locate(PathRef(paths[0]), [])


def test_path_under_another_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "sha256-abc").write_bytes(b"1")
    assert locate(PathRef(tmp_path / "sha256-abc"), []) is not None


def test_folder_with_a_model_is_found(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"1")
    (tmp_path / "mmproj-m.gguf").write_bytes(b"1")
    found = locate(PathRef(tmp_path), [])
    assert found is not None
    assert found.path == tmp_path / "m.gguf"


@pytest.mark.parametrize("name", ["absent.gguf", "empty"])
def test_path_that_leads_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound):
        locate(PathRef(tmp_path / name), [])


def test_embedded_model_is_the_one_in_the_package(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"1")
    found = locate(EmbeddedRef(), [], embedded_folder=tmp_path)
    assert found == LocalModel((tmp_path / "model.gguf",), 1, None, None, "embedded")
    with pytest.raises(ModelNotFound, match="missing from this installation"):
        locate(EmbeddedRef(), [], embedded_folder=tmp_path / "absent")


def test_store_imports_neither_engine_nor_llama() -> None:
    folder = Path(worker_gguf.store.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("llama_cpp", "ctypes", "worker_gguf.engine", "worker_gguf.llama")), path
