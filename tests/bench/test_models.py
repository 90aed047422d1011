import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from bench import models, words
from bench.gguf_file import BLOCKS, TensorType

TINY, TINY_MOE = models.SHAPES["tiny"], models.SHAPES["tiny-moe"]
ignore_log = llama_cpp.llama_log_callback(lambda level, text, user_data: None)


@pytest.fixture(scope="module", params=[TINY, TINY_MOE], ids=["dense", "moe"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.ensure(request.param, tmp_path_factory.mktemp("models"))


@pytest.fixture
def model(path: Path) -> Iterator[llama_cpp.llama_model_p]:
    llama_cpp.llama_log_set(ignore_log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.check_tensors = True
    loaded = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert loaded is not None
    yield loaded
    llama_cpp.llama_model_free(loaded)


def tokenize(model: llama_cpp.llama_model_p, text: str) -> list[int]:
    tokens = (llama_cpp.llama_token * (len(text) + 1))()
    vocab = llama_cpp.llama_model_get_vocab(model)
    n = llama_cpp.llama_tokenize(vocab, text.encode(), len(text), tokens, len(tokens), True, True)
    return list(tokens[:n])


def test_llama_cpp_loads_it_and_its_prompts_have_the_promised_tokens(model: llama_cpp.llama_model_p) -> None:
    vocab = llama_cpp.llama_model_get_vocab(model)
    assert llama_cpp.llama_vocab_n_tokens(vocab) == words.N_VOCAB == 128_256
    for n in (2, 17, 120):
        tokens = tokenize(model, words.prompt(n, f"seed {n}"))
        assert len(tokens) == n
        assert tokens[0] == words.BOS_TOKEN
    assert tokenize(model, "<|eot_id|>") == [words.BOS_TOKEN, words.EOT_TOKEN]
    assert llama_cpp.llama_vocab_is_eog(vocab, words.EOT_TOKEN)


def test_the_limit_runs_on_it_with_both_kv_layouts(path: Path) -> None:
    for kv_unified in (True, False):
        work = {"model": str(path), "concurrency": 2, "requests": 4, "prompt_tokens": 12, "max_tokens": 4}
        context = {"n_ctx": 256, "n_batch": 16, "n_ubatch": 16, "n_threads": 1, "n_gpu_layers": 0}
        command = [sys.executable, "-m", "bench.limit", json.dumps(work | context | {"kv_unified": kv_unified})]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        assert figures["tokens_per_s"] > 0
        assert figures["peak_memory_mb"] > 10


def test_an_existing_file_is_not_written_again(path: Path) -> None:
    before = path.stat().st_mtime_ns
    shape = TINY_MOE if "moe" in path.name else TINY
    assert models.ensure(shape, path.parent) == path
    assert path.stat().st_mtime_ns == before
    assert list(path.parent.iterdir()) == [path]


def test_prompts_of_different_seeds_differ_from_the_first_word_on() -> None:
    first_words = [words.prompt(5, str(n)).split()[0] for n in range(50)]
    assert len(set(first_words)) > 45
    assert words.prompt(5, "a") == words.prompt(5, "a")


@pytest.mark.parametrize("kind", [TensorType.Q8_0, TensorType.Q4_K, TensorType.Q6_K])
def test_scales_are_finite_and_small(kind: TensorType) -> None:
    blocks = np.full((3, BLOCKS[kind][1]), 0xFF, np.uint8)
    models.set_scales(blocks, kind, 0.05)
    at = slice(208, 210) if kind is TensorType.Q6_K else slice(0, 2)
    scale = np.ascontiguousarray(blocks[:, at]).view(np.float16)
    assert np.all(scale > 0)
    assert np.all(scale < 0.01)
