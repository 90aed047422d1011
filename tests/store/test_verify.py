"""Tests of `VERIFY_MODEL` and of the check whether a cache can be written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from worker_gguf.store.verify import matches_record, why_not_writable


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"x")
    assert why_not_writable(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert why_not_writable(tmp_path / "made" / "on the way") is None


def test_a_folder_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert isinstance(why_not_writable(tmp_path / "file" / "below"), NotADirectoryError)
    assert why_not_writable(Path("/proc/worker-gguf")) is not None  # for root too


def test_a_blob_is_compared_with_its_name_through_links(tmp_path: Path) -> None:
    content = bytes(range(256)) * 70_000
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(content)
    link = tmp_path / "model.gguf"
    link.symlink_to(blob)
    assert matches_record(link) is True
    seen: list[float] = []

    def goes_on(fraction: float) -> bool:
        seen.append(fraction)
        return True

    assert matches_record(link, goes_on) is True
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    blob.write_bytes(b"\x01" + content[1:])
    assert matches_record(link) is False
    assert matches_record(link, lambda _: False) is None


def test_a_file_that_is_no_blob_has_no_record(tmp_path: Path) -> None:
    plain = tmp_path / "model.gguf"
    plain.write_bytes(b"x")
    assert matches_record(plain) is None
