"""Tests of downloads from a stand-in for the Hub: each file once and whole, and each failure with a sentence."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fake_hub import FakeHub
from worker_gguf.errors import DownloadError, ModelNotFound, WorkerError
from worker_gguf.store import ensure, locate
from worker_gguf.store.cache import Cache
from worker_gguf.store.download import write_ref
from worker_gguf.store.prune import disk_error
from worker_gguf.store.ref import HubRef

FILES = {
    "README.md": b"# A model",
    "m-Q4_K_M.gguf": b"GGUF" + b"4" * 50_000,
    "m-Q8_0.gguf": b"GGUF" + b"8" * 80_000,
    "mmproj-f16.gguf": b"GGUF" + b"p" * 100,
    "big/m-BF16-00001-of-00002.gguf": b"GGUF" + b"a" * 30_000,
    "big/m-BF16-00002-of-00002.gguf": b"GGUF" + b"b" * 20_000,
}
Q4 = HubRef("org/repo", quant="Q4_K_M")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr("time.sleep", lambda _s: None)
    with FakeHub() as hub:
        hub.repo("org/repo", FILES)
        yield hub
    from huggingface_hub import close_session

    close_session()


def test_chosen_file_is_fetched_into_the_hubs_layout(hub: FakeHub, tmp_path: Path) -> None:
    model = ensure(Q4, [tmp_path], endpoint=hub.url)
    commit = hub.repo("org/repo").branches["main"]
    folder = tmp_path / "models--org--repo"
    assert model.paths == (folder / "snapshots" / commit / "m-Q4_K_M.gguf",)
    assert (model.size_bytes, model.revision, model.source) == (50_004, commit, "download")
    assert model.path.read_bytes() == FILES["m-Q4_K_M.gguf"]
    assert (folder / "refs/main").read_text() == commit
    assert hub.bytes_served == 50_004
    assert not list(tmp_path.rglob("*.incomplete"))


def test_second_time_asks_the_hub_nothing(hub: FakeHub, tmp_path: Path) -> None:
    first = ensure(Q4, [tmp_path], endpoint=hub.url)
    hub.requests.clear()
    second = ensure(Q4, [tmp_path], endpoint=hub.url)
    assert second.paths == first.paths
    assert second.source == "cache"
    assert hub.requests == []


def test_model_on_disk_needs_no_hub_at_all(hub: FakeHub, tmp_path: Path) -> None:
    ensure(Q4, [tmp_path], endpoint=hub.url)
    hub.status = 503
    assert ensure(Q4, [tmp_path], endpoint=hub.url).source == "cache"


def test_other_tools_find_the_downloaded_files(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    model = ensure(Q4, [tmp_path], endpoint=hub.url)
    assert try_to_load_from_cache("org/repo", "m-Q4_K_M.gguf", cache_dir=tmp_path) == str(model.path)


def test_all_parts_are_fetched_and_only_they(hub: FakeHub, tmp_path: Path) -> None:
    model = ensure(HubRef("org/repo", quant="bf16"), [tmp_path], endpoint=hub.url)
    assert [path.name for path in model.paths] == ["m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"]
    assert hub.bytes_served == model.size_bytes == 50_008


def test_part_that_is_there_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    ref = HubRef("org/repo", quant="bf16")
    model = ensure(ref, [tmp_path], endpoint=hub.url)
    model.paths[1].resolve().unlink()
    model.paths[1].unlink()
    hub.bytes_served = 0
    heard: list[tuple[int, int]] = []
    ensure(ref, [tmp_path], progress=lambda done, total: heard.append((done, total)), endpoint=hub.url)
    assert hub.bytes_served == 20_004
    assert heard[-1] == (50_008, 50_008)


def test_earlier_caches_are_only_read(hub: FakeHub, tmp_path: Path) -> None:
    image, volume = tmp_path / "image", tmp_path / "volume"
    image.mkdir()
    model = ensure(Q4, [image, volume], endpoint=hub.url)
    assert volume in model.path.parents
    assert list(image.iterdir()) == []
    shutil.move(volume / "models--org--repo", image / "models--ORG--Repo")
    assert image in ensure(Q4, [image], download_dir=volume, endpoint="http://127.0.0.1:9").path.parents


def test_progress_rises_to_the_whole(hub: FakeHub, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    ensure(
        HubRef("org/repo", quant="BF16"),
        [tmp_path],
        progress=lambda done, total: heard.append((done, total)),
        endpoint=hub.url,
    )
    assert heard[0] == (0, 50_008)
    assert heard[-1] == (50_008, 50_008)
    assert all(before[0] <= after[0] for before, after in pairwise(heard))
    assert {total for _, total in heard} == {50_008}
    assert (30_004, 50_008) in heard


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_revision_is_kept_apart(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    repo = hub.repo("org/repo")
    repo.push({"m-Q4_K_M.gguf": b"GGUF of a branch"}, branch=revision)
    ref = HubRef("org/repo", quant="Q4_K_M", revision=revision)
    model = ensure(ref, [tmp_path], endpoint=hub.url)
    assert model.path.read_bytes() == b"GGUF of a branch"
    assert locate(ref, [tmp_path]) is not None
    assert locate(Q4, [tmp_path]) is None


def test_commit_can_be_named(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.repo("org/repo").branches["main"]
    hub.repo("org/repo").push({"m-Q4_K_M.gguf": b"GGUF newer"})
    ref = HubRef("org/repo", quant="Q4_K_M", revision=commit)
    assert ensure(ref, [tmp_path], endpoint=hub.url).revision == commit
    assert not (tmp_path / "models--org--repo" / "refs").exists()
    assert ensure(ref, [tmp_path], endpoint="http://127.0.0.1:9").revision == commit


def test_cut_connection_is_taken_up_where_it_broke(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 10_000
    heard: list[tuple[int, int]] = []
    model = ensure(Q4, [tmp_path], progress=lambda done, total: heard.append((done, total)), endpoint=hub.url)
    assert model.path.read_bytes() == FILES["m-Q4_K_M.gguf"]
    assert [request.range for request in hub.requested("GET", "/cdn/")] == [
        "bytes=0-50003",
        "bytes=10000-50003",
    ]
    assert hub.bytes_served == 50_004
    assert heard[-1] == (50_004, 50_004)


def test_a_failing_hub_is_retried_until_it_recovers(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail_once = [503, 500]
    assert ensure(Q4, [tmp_path], endpoint=hub.url).source == "download"


def test_token_is_sent_to_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/repo").token = "hf_good"
    ensure(Q4, [tmp_path], "hf_good", endpoint=hub.url)
    assert {request.token for request in hub.requests if "/cdn/" not in request.path} == {"hf_good"}
    assert {request.token for request in hub.requests if "/cdn/" in request.path} == {None}


class Refusal(NamedTuple):
    error: type[WorkerError]
    says: str


@pytest.mark.parametrize(
    ("ref", "refusal"),
    [
        (HubRef("org/absent"), Refusal(ModelNotFound, "HF_TOKEN")),
        (HubRef("org/repo", quant="Q3_K_S"), Refusal(ModelNotFound, "m-Q8_0.gguf")),
        (HubRef("org/repo", file="x.gguf"), Refusal(ModelNotFound, "m-Q8_0.gguf")),
        (HubRef("org/repo", revision="v9"), Refusal(ModelNotFound, "no revision v9")),
        (HubRef("org/empty"), Refusal(ModelNotFound, r"no \.gguf file")),
    ],
)
def test_reference_that_leads_nowhere_is_refused(hub: FakeHub, tmp_path: Path, ref: HubRef, refusal: Refusal) -> None:
    hub.repo("org/empty", {"README.md": b""})
    with pytest.raises(refusal.error, match=refusal.says):
        ensure(ref, [tmp_path], endpoint=hub.url)
    assert list(tmp_path.rglob("*.gguf")) == []


@pytest.mark.parametrize("token", [None, "hf_other"])
@pytest.mark.parametrize("gated", [True, False])
def test_closed_repository_names_the_token(hub: FakeHub, tmp_path: Path, token: str | None, gated: bool) -> None:
    hub.repo("org/repo").token = "hf_good"
    hub.repo("org/repo").gated = gated
    with pytest.raises(ModelNotFound, match="gated" if gated else "HF_TOKEN") as caught:
        ensure(Q4, [tmp_path], token, endpoint=hub.url)
    assert "HF_TOKEN" in caught.value.message
    assert "hf_other" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, Refusal(ModelNotFound, "HF_TOKEN")),
        (403, Refusal(ModelNotFound, "HF_TOKEN")),
        (404, Refusal(ModelNotFound, "no repository org/repo")),
        (429, Refusal(DownloadError, "too many requests")),
        (500, Refusal(DownloadError, "answered 500")),
        (503, Refusal(DownloadError, "answered 503")),
    ],
)
def test_status_of_the_hub_becomes_a_sentence(hub: FakeHub, tmp_path: Path, status: int, refusal: Refusal) -> None:
    hub.status = status
    hub.retry_after = "7"
    with pytest.raises(refusal.error, match=refusal.says) as caught:
        ensure(Q4, [tmp_path], endpoint=hub.url)
    assert "\n" not in caught.value.message
    assert caught.value.retry_after_s == (7 if status == 429 else None)


def test_the_error_without_a_network_has_a_next_step(hub: FakeHub, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DownloadError, match="Check the network"):
        ensure(Q4, [tmp_path], endpoint=f"http://127.0.0.1:{port}")


def test_offline_is_an_immediate_error(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ensure(Q4, [tmp_path / "full"], endpoint=hub.url)
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        ensure(Q4, [tmp_path / "empty"], endpoint=hub.url)
    assert ensure(Q4, [tmp_path / "full"], endpoint=hub.url).path == model.path
    assert hub.requests == []


def test_quant_is_left_to_the_plan(hub: FakeHub, tmp_path: Path) -> None:
    model = ensure(
        HubRef("org/repo"),
        [tmp_path],
        endpoint=hub.url,
        prefer=lambda models: max(models, key=lambda model: model.size_bytes),
    )
    assert model.path.name == "m-Q8_0.gguf"


def test_projector_is_fetched_by_its_kind(hub: FakeHub, tmp_path: Path) -> None:
    model = ensure(HubRef("org/repo"), [tmp_path], endpoint=hub.url, kind="mmproj")
    assert model.path.name == "mmproj-f16.gguf"


def test_file_name_of_the_hub_that_leaves_the_repository_is_not_written(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/evil", {"../../../m-Q8_0.gguf": b"GGUF"})
    with pytest.raises(ModelNotFound, match=r"no \.gguf file"):
        ensure(HubRef("org/evil"), [tmp_path / "cache"], endpoint=hub.url)
    assert not (tmp_path / "m-Q8_0.gguf").exists()


def test_room_is_made_by_pruning(hub: FakeHub, tmp_path: Path) -> None:
    first = ensure(Q4, [tmp_path], endpoint=hub.url)
    second = ensure(HubRef("org/repo", quant="Q8_0"), [tmp_path], endpoint=hub.url, most_bytes=100_000)
    assert second.path.is_file()
    assert not first.path.exists()
    assert locate(Q4, [tmp_path]) is None


def test_disk_without_room_is_refused_before_the_first_byte(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage._replace(free=50_003))
    with pytest.raises(DownloadError, match="GiB free and the model needs"):
        ensure(Q4, [tmp_path], endpoint=hub.url)
    assert hub.bytes_served == 0


def test_cache_that_cannot_be_made_is_a_sentence(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="MODEL_CACHE_DIR"):
        ensure(Q4, [tmp_path / "file"], endpoint=hub.url)


def test_no_cache_at_all_is_a_sentence(hub: FakeHub) -> None:
    with pytest.raises(ModelNotFound, match="MODEL_CACHE_DIR"):
        ensure(Q4, [], endpoint=hub.url)


def test_ref_is_replaced_whole(tmp_path: Path) -> None:
    write_ref(tmp_path, "main", "a" * 40)
    write_ref(tmp_path, "main", "b" * 40)
    assert (tmp_path / "refs/main").read_text() == "b" * 40
    assert [path.name for path in (tmp_path / "refs").iterdir()] == ["main"]


def test_a_full_disk_and_a_read_only_disk_have_different_errors() -> None:
    cache = Cache(Path("/volume"))
    assert "disk of /volume is full" in disk_error(OSError(28, "No space left on device"), cache).message
    assert "writable" in disk_error(OSError(30, "Read-only file system"), cache).message
    assert "Check the volume" in disk_error(OSError(107, "Transport endpoint is not connected"), cache).message


def test_finding_a_model_on_disk_imports_nothing_heavy() -> None:
    code = "import sys, worker_gguf.store; print({'huggingface_hub', 'numpy', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
