"""Tests of the original repository's chat template and special tokens, from a folder, the cache or the Hub."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fake_hub import FakeHub
from worker_gguf.errors import ModelInvalid, ModelNotFound
from worker_gguf.store.hub import Hub
from worker_gguf.store.tokenizer import read_tokenizer

VOCABULARY = [*"abcdefgh", "ab", "<s>", "</s>", "<|im_end|>"]
CONFIG: dict[str, Any] = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "plain {{ messages }}"}
TOKENIZER: dict[str, Any] = {
    "model": {"vocab": {text: token for token, text in enumerate(VOCABULARY[:9])}},
    "added_tokens": [{"id": token, "content": VOCABULARY[token]} for token in (9, 10, 11)],
}
FILES: dict[str, Any] = {
    "tokenizer_config.json": CONFIG,
    "tokenizer.json": TOKENIZER,
    "generation_config.json": {"eos_token_id": [10, 11]},
}


def content(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def folder(path: Path, files: Mapping[str, object]) -> str:
    for name, value in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content(value))
    return str(path)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.repo(
            "org/original", {name: content(value) for name, value in FILES.items()} | {"w.safetensors": b"0" * 999}
        )
        yield hub
    from huggingface_hub import close_session

    close_session()


def test_a_folder_gives_template_and_special_tokens(tmp_path: Path) -> None:
    found = read_tokenizer(folder(tmp_path, FILES), tmp_path, Hub())
    assert found.chat_templates == {"default": "plain {{ messages }}"}
    assert (found.bos_token, found.bos_id) == ("<s>", 9)
    assert (found.eos_tokens, found.eos_ids) == (("</s>", "<|im_end|>"), (10, 11))
    found.check(len(VOCABULARY), VOCABULARY.__getitem__)


def test_template_files_win_over_the_configuration(tmp_path: Path) -> None:
    more = {"chat_template.jinja": "of its own", "additional_chat_templates/tool_use.jinja": "tools"}
    found = read_tokenizer(folder(tmp_path, FILES | more), tmp_path, Hub())
    assert found.chat_templates == {"default": "of its own", "tool_use": "tools"}


def test_named_templates_and_the_older_file(tmp_path: Path) -> None:
    named = CONFIG | {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}
    assert read_tokenizer(
        folder(tmp_path, FILES | {"tokenizer_config.json": named}), tmp_path, Hub()
    ).chat_templates == {
        "default": "a",
        "rag": "b",
    }
    without = {key: value for key, value in CONFIG.items() if key != "chat_template"}
    files = FILES | {"tokenizer_config.json": without, "chat_template.json": {"chat_template": "older"}}
    assert read_tokenizer(folder(tmp_path, files), tmp_path, Hub()).chat_templates == {"default": "older"}


def test_another_models_vocabulary_is_refused(tmp_path: Path) -> None:
    found = read_tokenizer(folder(tmp_path, FILES), tmp_path, Hub())
    moved = [*VOCABULARY[:9], "</s>", "<s>", "<|im_end|>"]
    with pytest.raises(ModelInvalid, match=r"special token 9 is '<s>', but the model's is '</s>'.*unset TOKENIZER"):
        found.check(len(moved), moved.__getitem__)
    with pytest.raises(ModelInvalid, match="has the id 11, but the model has 11 tokens"):
        found.check(11, VOCABULARY.__getitem__)
    other = ["x", *VOCABULARY[1:]]
    with pytest.raises(ModelInvalid, match="its token 0 is 'a'"):
        found.check(len(other), other.__getitem__)


def test_only_the_small_files_are_fetched_and_once(hub: FakeHub, tmp_path: Path) -> None:
    first = read_tokenizer("org/original", tmp_path, Hub(None, hub.url))
    assert not hub.requested("GET", "safetensors")
    assert hub.bytes_served == sum(len(content(value)) for value in FILES.values())
    hub.requests.clear()
    assert read_tokenizer("org/original", tmp_path, Hub(None, hub.url)) == first
    assert not hub.requests


def test_a_repository_without_a_tokenizer_is_an_error(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/empty", {"README.md": b"nothing"})
    for reference in ("org/empty", "org", str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(ModelNotFound, match="TOKENIZER="):
            read_tokenizer(reference, tmp_path, Hub(None, hub.url))


def test_without_tokenizer_json_transformers_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelInvalid, match=r"worker-gguf\[transformers\]"):
        read_tokenizer(folder(tmp_path, {"tokenizer_config.json": CONFIG}), tmp_path, Hub())


@pytest.mark.parametrize("bad", ["{", "[1]", {"added_tokens": [{"id": "x"}]}, {"model": {"vocab": {"a": []}}}])
def test_files_of_another_shape_are_refused(tmp_path: Path, bad: object) -> None:
    with pytest.raises(ModelInvalid, match="TOKENIZER="):
        read_tokenizer(folder(tmp_path, FILES | {"tokenizer.json": bad}), tmp_path, Hub())
