"""Tests of pruning: the model used least recently goes first, and a model in use never goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker_gguf.errors import DownloadError
from worker_gguf.store.cache import Cache
from worker_gguf.store.prune import kept_models, make_room
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.usage_marks import UsageMark, used_paths

TUNING = Tuning()


def _model(cache: Path, repo: str, file: str, size_bytes: int, used_at: float, commit: str = "a" * 40) -> Path:
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / f"{file}-{size_bytes}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    if not blob.exists():
        blob.write_bytes(b"x" * size_bytes)
    os.utime(blob, (used_at, 1.0))
    name = folder / "snapshots" / commit / file
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(os.path.relpath(blob, name.parent))
    return name


def _left(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*.gguf") if path.is_file()}


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    _model(tmp_path, "o/a", "a.gguf", 40, used_at=3.0)
    _model(tmp_path, "o/b", "b.gguf", 40, used_at=1.0)
    _model(tmp_path, "o/c", "c.gguf", 40, used_at=2.0)
    make_room(Cache(tmp_path), 20, 100, TUNING)
    assert _left(tmp_path) == {"a.gguf", "c.gguf"}
    make_room(Cache(tmp_path), 60, 100, TUNING)
    assert _left(tmp_path) == {"a.gguf"}
    assert list((tmp_path / "models--o--b" / "blobs").iterdir()) == []


def test_quants_of_one_repository_are_models_of_their_own(tmp_path: Path) -> None:
    _model(tmp_path, "o/a", "m-Q4_0.gguf", 40, used_at=1.0)
    _model(tmp_path, "o/a", "m-Q8_0.gguf", 40, used_at=2.0)
    make_room(Cache(tmp_path), 20, 60, TUNING)
    assert _left(tmp_path) == {"m-Q8_0.gguf"}


def test_parts_of_a_split_go_together(tmp_path: Path) -> None:
    for n in (1, 2):
        _model(tmp_path, "o/a", f"m-0000{n}-of-00002.gguf", 20, used_at=float(n))
    _model(tmp_path, "o/b", "b.gguf", 40, used_at=1.5)
    make_room(Cache(tmp_path), 30, 100, TUNING)
    assert _left(tmp_path) == {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}


def test_two_revisions_of_one_file_are_one_model(tmp_path: Path) -> None:
    for commit in ("a" * 40, "b" * 40):
        _model(tmp_path, "o/a", "a.gguf", 40, 1.0, commit)
    (kept,) = kept_models(Cache(tmp_path))
    assert (kept.size_bytes, len(kept.names)) == (40, 2)
    make_room(Cache(tmp_path), 20, 50, TUNING)
    assert list(tmp_path.rglob("*.gguf")) == []


def _part(cache: Path, commit: str, number: int, content: str, used_at: float) -> Path:
    """Create one of two parts, under its name in a revision."""
    folder = cache / "models--o--a"
    blob = folder / "blobs" / content
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(b"x" * 20)
    os.utime(blob, (used_at, 1.0))
    name = folder / "snapshots" / commit / f"m-0000{number}-of-00002.gguf"
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(os.path.relpath(blob, name.parent))
    return name


def test_file_that_another_revision_shows_is_kept_and_counts_once(tmp_path: Path) -> None:
    old = [_part(tmp_path, "a" * 40, 1, "first-old", 1.0), _part(tmp_path, "a" * 40, 2, "second", 1.0)]
    new = [_part(tmp_path, "b" * 40, 1, "first-new", 2.0), _part(tmp_path, "b" * 40, 2, "second", 1.0)]
    make_room(Cache(tmp_path), 40, 100, TUNING)  # 60 are there
    assert all(name.is_file() for name in (*old, *new))
    make_room(Cache(tmp_path), 60, 100, TUNING)
    assert [name.is_file() for name in new] == [True, True]
    assert not old[0].exists()
    assert sum(path.stat().st_size for path in (tmp_path / "models--o--a" / "blobs").iterdir()) == 40


def test_file_that_another_tool_shows_under_its_own_name_is_kept(tmp_path: Path) -> None:
    name = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    theirs = name.with_name("a.bin")
    theirs.symlink_to(name.readlink())
    with pytest.raises(DownloadError, match="models in use"):
        make_room(Cache(tmp_path), 30, 60, TUNING)
    assert theirs.read_bytes() == b"x" * 40


def test_removal_that_was_cut_off_is_finished_by_the_next(tmp_path: Path) -> None:
    name = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    aside = Cache(tmp_path).bin / "killed"
    aside.parent.mkdir(parents=True)
    name.resolve().rename(aside)  # and then the worker was killed
    make_room(Cache(tmp_path), 1, 100, TUNING)
    assert aside.exists()  # somebody may still be at it
    make_room(Cache(tmp_path), 1, 100, Tuning(in_use_stale_s=-1.0))
    assert not aside.exists()
    assert kept_models(Cache(tmp_path)) == []


def test_use_is_noted_by_the_volumes_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose clock is an hour ahead does not keep its model an hour longer than others."""
    monkeypatch.setattr("time.time", lambda: 4e9)
    used = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    hold = UsageMark([used], tmp_path)
    (mark,) = Cache(tmp_path).marks.iterdir()
    assert used.stat().st_atime == pytest.approx(mark.stat().st_mtime, abs=1)
    hold.release()


def test_mark_of_a_worker_that_is_really_killed_ends(tmp_path: Path) -> None:
    used = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    quick = Tuning(in_use_beat_s=0.05, in_use_stale_s=0.5)
    code = (
        "import sys, pathlib, time\n"
        "from worker_gguf.store import UsageMark\n"
        "from worker_gguf.store.tuning import Tuning\n"
        f"used, cache = pathlib.Path({str(used)!r}), pathlib.Path({str(tmp_path)!r})\n"
        "mark = UsageMark([used], cache, Tuning(in_use_beat_s=0.05))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        (mark,) = Cache(tmp_path).marks.glob("*.json")
        first, until = mark.stat().st_mtime_ns, time.monotonic() + 20
        while mark.stat().st_mtime_ns == first:  # it renews it
            assert time.monotonic() < until
        assert used_paths(Cache(tmp_path), quick) == {used.resolve()}
        worker.kill()
    until = time.monotonic() + 20
    while used_paths(Cache(tmp_path), quick):
        assert time.monotonic() < until


def test_model_in_use_is_kept(tmp_path: Path) -> None:
    used = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    _model(tmp_path, "o/b", "b.gguf", 40, used_at=2.0)
    hold = UsageMark([used], tmp_path)
    os.utime(used, (1.0, 1.0))
    make_room(Cache(tmp_path), 20, 60, TUNING)
    assert _left(tmp_path) == {"a.gguf"}
    with pytest.raises(DownloadError, match="models in use"):
        make_room(Cache(tmp_path), 30, 60, TUNING)
    hold.release()
    make_room(Cache(tmp_path), 30, 60, TUNING)
    assert _left(tmp_path) == set()


def test_mark_of_a_killed_worker_ends(tmp_path: Path) -> None:
    used = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    hold = UsageMark([used], tmp_path)
    (mark,) = Cache(tmp_path).marks.iterdir()
    assert used_paths(Cache(tmp_path), TUNING) == {used.resolve()}
    old = mark.stat().st_mtime - TUNING.in_use_stale_s - 1
    os.utime(mark, (old, old))
    assert used_paths(Cache(tmp_path), TUNING) == set()
    hold.release()


def test_use_that_begins_while_it_is_removed_brings_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    blob = name.resolve()
    answers = iter([set[Path](), {blob}])
    monkeypatch.setattr("worker_gguf.store.prune.used_paths", lambda _cache, _tuning: next(answers))
    with pytest.raises(DownloadError, match="models in use"):
        make_room(Cache(tmp_path), 30, 60, TUNING)
    assert name.read_bytes() == b"x" * 40


def test_without_a_limit_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=50))
    with pytest.raises(DownloadError, match=r"has 0\.0 GiB free and the model needs 0\.0 GiB"):
        make_room(Cache(tmp_path), 51, None, TUNING)
    assert _left(tmp_path) == {"a.gguf"}


def test_model_larger_than_the_limit_is_refused_and_nothing_removed(tmp_path: Path) -> None:
    _model(tmp_path, "o/a", "a.gguf", 40, used_at=1.0)
    with pytest.raises(DownloadError, match="MODEL_CACHE_MAX_GB allows"):
        make_room(Cache(tmp_path), 101, 100, TUNING)
    assert _left(tmp_path) == {"a.gguf"}


def test_models_of_other_tools_and_files_outside_are_not_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(b"x" * 100)
    cache = tmp_path / "cache"
    name = _model(cache, "o/a", "weights.safetensors", 100, used_at=1.0)
    link = name.with_name("m.gguf")
    link.symlink_to(outside)
    make_room(Cache(cache), 10, 10, TUNING)
    assert name.is_file()
    assert outside.is_file()
    assert kept_models(Cache(cache)) == []


def test_abandoned_downloads_are_swept(tmp_path: Path) -> None:
    folder = Cache(tmp_path).partials / "key.a"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(b"x")
    make_room(Cache(tmp_path), 1, 10, TUNING)
    assert folder.exists()
    make_room(Cache(tmp_path), 1, 10, Tuning(partial_stale_s=-1.0))
    assert not folder.exists()
