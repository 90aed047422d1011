"""Tests of references: each is read as the user means it, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_gguf.errors import ModelNotFound
from worker_gguf.store.ref import EmbeddedRef, HubRef, ModelRef, PathRef, UrlRef

DARK = "DavidAU/Llama-3.2-8X3B-MOE-Dark-Champion-Instruct-uncensored-abliterated-18.4B-GGUF"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embedded", EmbeddedRef()),
        (" Embedded ", EmbeddedRef()),
        ("org/repo", HubRef("org/repo")),
        ("org/repo:Q4_K_M", HubRef("org/repo", quant="Q4_K_M")),
        ("org/repo:ud-q4_k_xl@v2", HubRef("org/repo", quant="ud-q4_k_xl", revision="v2")),
        ("org/repo@refs/pr/3", HubRef("org/repo", revision="refs/pr/3")),
        ("org/repo/file.gguf", HubRef("org/repo", file="file.gguf")),
        ("org/repo/a/b.GGUF@abc", HubRef("org/repo", file="a/b.GGUF", revision="abc")),
        ("org/repo:file.gguf", HubRef("org/repo", file="file.gguf")),
        ("org/repo/*Q4_K_M.gguf", HubRef("org/repo", file="*Q4_K_M.gguf")),
        ("hf.co/org/repo:Q8_0", HubRef("org/repo", quant="Q8_0")),
        ("hf://org/repo", HubRef("org/repo")),
        (f"{DARK}:D_AU-Q4_k_m", HubRef(DARK, quant="D_AU-Q4_k_m")),
        ("https://huggingface.co/org/repo", HubRef("org/repo")),
        ("https://hf.co/org/repo/resolve/main/a/b.gguf?x=1", HubRef("org/repo", file="a/b.gguf", revision="main")),
        ("https://hf.co/org/repo/blob/v1/x%20y.gguf", HubRef("org/repo", file="x y.gguf", revision="v1")),
        ("https://huggingface.co/org/repo/tree/v1", HubRef("org/repo", revision="v1")),
        ("https://example.org/x.gguf?sig=1", UrlRef("https://example.org/x.gguf?sig=1")),
        ("/models/x.gguf", PathRef(Path("/models/x.gguf"))),
        ("/models/folder", PathRef(Path("/models/folder"))),
        ("./x.gguf", PathRef(Path("x.gguf"))),
        ("x.gguf", PathRef(Path("x.gguf"))),
        ("models/x.gguf", PathRef(Path("models/x.gguf"))),
    ],
)  # fmt: skip
def test_text_is_read(text: str, expected: ModelRef) -> None:
    assert ModelRef.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "gpt-4",
        "org/",
        "/".join("abc"),
        "org/repo:",
        "org/repo@",
        "org/repo@../x",
        "org/repo@/etc",
        "org/re po",
        "https://host:port/x.gguf",
        "https://[::1/x.gguf",
        "https://host/%00.gguf",
        "org/../x.gguf",
        "org/repo/../../x.gguf",
        "org/repo//x.gguf",
        "org/repo/x.gguf:Q4_K_M",
        "org--x/repo",
        "https://example.org/page.html",
        "http:///x.gguf",
        "a\0b",
    ],
)
def test_nonsense_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        ModelRef.parse(text)
    assert caught.value.message.endswith(".")
    assert len(caught.value.message) > 30


def test_a_file_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "repo").mkdir(parents=True)
    (tmp_path / "org/repo/x.gguf").touch()
    assert ModelRef.parse("org/repo/x.gguf") == PathRef(Path("org/repo/x.gguf"))
    assert ModelRef.parse("org/repo") == HubRef("org/repo")


def test_home_is_expanded() -> None:
    assert ModelRef.parse("~/x.gguf") == PathRef(Path.home() / "x.gguf")


@pytest.mark.parametrize(
    "ref",
    [
        EmbeddedRef(),
        PathRef(Path("x.gguf")),
        PathRef(Path("/a/b")),
        HubRef("org/repo"),
        HubRef("org/repo", quant="Q4_K_M", revision="v1"),
        HubRef("org/repo", file="a/b.gguf", revision="v1"),
        UrlRef("https://example.org/x.gguf"),
    ],
)
def test_text_of_a_reference_reads_back(ref: ModelRef) -> None:
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("repo", "filename", "expected"),
    [
        (DARK, "x-Q4_k_m.gguf", HubRef(DARK, file="x-Q4_k_m.gguf")),
        ("org/repo", "", HubRef("org/repo")),
        ("org/repo", "*q8_0*", HubRef("org/repo", file="*q8_0*")),
        ("org/repo", "Q8_0", HubRef("org/repo", quant="Q8_0")),
        ("https://huggingface.co/org/repo", "/a/x.gguf", HubRef("org/repo", file="a/x.gguf")),
        ("org/repo@v1", "x.gguf", HubRef("org/repo", file="x.gguf", revision="v1")),
    ],
)
def test_older_pair_is_read(repo: str, filename: str, expected: HubRef) -> None:
    assert ModelRef.from_pair(repo, filename) == expected


@pytest.mark.parametrize(("repo", "filename"), [("org/repo:Q8_0", "x.gguf"), ("org/repo", "../x.gguf"), ("", "x.gguf")])
def test_bad_pair_is_refused(repo: str, filename: str) -> None:
    with pytest.raises(ModelNotFound):
        ModelRef.from_pair(repo, filename)
