"""Tests that a damaged model ends in a typed error, and that llama.cpp never ends the process without a message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from tests.gguf.gguf_value import F32, STR, U32, Written, array, number, text
from tests.gguf.loading import Outcome, load_all
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.llama.last_words import sentence
from worker_gguf.worker_process import free_port

SOUND = Written.read(MODEL_PATH.read_bytes())
LAYER = "blk.1."


def key(name: str, value: int) -> Written:
    return SOUND.with_key(name, U32, number(U32, value))


def said(name: str, value: str) -> Written:
    return SOUND.with_key(name, STR, text(value))


def of_type(tensor: str, kind: int, bytes_each: int) -> Written:
    return SOUND.change(tensor, lambda t: replace(t, type=kind, content=bytes(len(t.content) * bytes_each)))


def as_floats(tensor: str, shape: tuple[int, ...]) -> Written:
    return SOUND.change(tensor, lambda t: replace(t, shape=shape, type=0, content=bytes(4 * prod(shape))))


def tokens(texts: list[str]) -> Written:
    return SOUND.with_key("tokenizer.ggml.tokens", 9, array(STR, [text(each) for each in texts]))


UNKNOWN = replace(
    said("general.architecture", "nobody"),
    keys=tuple(
        replace(each, name=each.name.replace(b"llama.", b"nobody."))
        for each in said("general.architecture", "nobody").keys
    ),
)

ASSERTED: dict[str, tuple[Written, str]] = {
    "no layers": (key("llama.block_count", 0), "0 layers"),
    "thousands of layers": (key("llama.block_count", 4096), "4096 layers"),
    "no expert count": (SOUND.without("llama.expert_count"), "0 experts and uses 2"),
    "more experts than are known": (key("llama.expert_count", 4096), "at most 1024"),
    "more experts used than there are": (key("llama.expert_used_count", 9), "8 experts and uses 9"),
    "no expert used": (key("llama.expert_used_count", 0), "uses 0"),
    "experts that do not divide into groups": (key("llama.expert_group_count", 3), "3 groups"),
    "as many groups as experts": (key("llama.expert_group_count", 8), "8 groups"),
    "more predicting layers than layers": (key("llama.nextn_predict_layers", 9), "9 of its 4 layers"),
    "an unknown rope scaling": (said("llama.rope.scaling.type", "x"), "'x', not one of none"),
    "a negative epsilon": (
        SOUND.with_key("llama.attention.layer_norm_rms_epsilon", F32, number(F32, -1.0)), "epsilon is -1.0",
    ),
    "an epsilon that is no number": (
        SOUND.with_key("llama.attention.layer_norm_rms_epsilon", F32, number(F32, float("nan"))), "epsilon is nan",
    ),
    "weights that nothing aligns": (key("general.alignment", 1), "not a multiple of 32"),
    "weights of whole numbers": (of_type(f"{LAYER}attn_q.weight", 24, 1), "type I8"),
    "weights of 64 bits": (of_type(f"{LAYER}ffn_up_exps.weight", 28, 8), "type F64"),
    "a vocabulary of whole numbers": (of_type("token_embd.weight", 26, 4), "type I32"),
    "a quantised norm": (of_type(f"{LAYER}attn_norm.weight", 8, 1), "type Q8_0"),
    "no vocabulary": (said("tokenizer.ggml.model", "no_vocab"), "without a vocabulary"),
    "a vocabulary without bytes": (said("tokenizer.ggml.model", "llama"), "of the 256 bytes"),
}  # fmt: skip
"""llama.cpp aborts on these, or reads beyond its tables. Each is refused before."""

REFUSED: dict[str, tuple[Written, str]] = {
    "an unknown architecture": (UNKNOWN, "architecture: 'nobody'"),
    "a projector": (said("general.architecture", "clip"), "projector"),
    "an encoder": (said("general.architecture", "bert"), ""),
    "a missing tensor": (SOUND.without_tensor(f"{LAYER}attn_q.weight"), "attn_q"),
    "a tensor of another shape": (as_floats(f"{LAYER}attn_q.weight", (192, 96)), "attn_q"),
    "a tensor with a dimension less": (as_floats(f"{LAYER}ffn_up_exps.weight", (192, 192)), "ffn_up_exps"),
    "a tensor too many": (
        replace(SOUND, tensors=(*SOUND.tensors, replace(SOUND.tensors[1], name=b"spare"))),
        "number of tensors",
    ),
    "no tensors": (replace(SOUND, tensors=()), ""),
    "heads that do not divide": (key("llama.attention.head_count_kv", 5), ""),
    "another width": (key("llama.embedding_length", 256), ""),
    "a longer vocabulary than its weights": (tokens([f"t{i}" for i in range(5000)]), ""),
    "an unknown tokeniser": (said("tokenizer.ggml.model", "nobody"), "nobody"),
    "no tokens": (SOUND.without("tokenizer.ggml.tokens"), ""),
    "tokens that are numbers": (SOUND.with_key("tokenizer.ggml.tokens", U32, number(U32, 1)), ""),
}

CAUGHT: dict[str, tuple[Written, str]] = {
    "a token twice": (tokens(["a"] * 1024), "id_to_token.size()"),
    "a norm of half floats": (
        SOUND.change(f"{LAYER}attn_norm.weight", lambda t: replace(t, type=1, content=bytes(384))), "binary_op",
    ),
}  # fmt: skip
"""Only llama.cpp can tell: it ends the process, and says why."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for name, (written, _) in {"sound": (SOUND, ""), **ASSERTED, **REFUSED, **CAUGHT}.items():
        paths.append(folder / f"{name}.gguf")
        paths[-1].write_bytes(written.write())
    return {outcome.name.removesuffix(".gguf"): outcome for outcome in load_all(paths)}


def test_a_file_is_written_as_it_was_read(outcomes: dict[str, Outcome]) -> None:
    assert Written.read(SOUND.write()) == SOUND
    assert outcomes["sound"].error == "served", outcomes["sound"]


@pytest.mark.parametrize("name", [*ASSERTED, *REFUSED])
def test_an_unsound_model_is_refused_with_a_sentence(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.error == "ModelInvalid", outcome
    assert {**ASSERTED, **REFUSED}[name][1] in outcome.message
    assert f"{name}.gguf" in outcome.message


@pytest.mark.parametrize("name", CAUGHT)
def test_what_only_llama_cpp_can_tell_ends_the_process_with_a_sentence(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    assert outcome.error == ""
    assert outcome.exit_code == 1
    assert CAUGHT[name][1] in outcome.said
    assert "#0" not in outcome.said  # no backtrace


def test_models_damaged_at_random_are_served_or_refused_with_a_sentence() -> None:
    """Runs the first seconds of `make fuzz-gguf`, always with the same files."""
    command = [sys.executable, "-m", "tests.gguf.fuzz", "--seconds", "3", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"N_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert " 0 ended without a sentence" in done.stdout


def test_the_worker_ends_with_exit_code_1_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "twice.gguf"
    path.write_bytes(CAUGHT["a token twice"][0].write())
    command = [sys.executable, "-m", "worker_gguf", "serve", "--model", str(path), "--port", str(free_port())]
    env = os.environ | {"MODE": "http", "HOST": "127.0.0.1", "N_THREADS": "1", "LOG_FORMAT": "json"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 1, done.stderr
    assert "worker-gguf: twice.gguf could not be loaded: llama.cpp stopped at" in done.stderr
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    (error,) = [line["event"] for line in logged if line["level"] == "error"]
    assert error.startswith("twice.gguf could not be loaded: llama.cpp stopped at")


def test_last_words_are_a_sentence_without_paths() -> None:
    blamed = sentence("/tmp/x y/src/a-b.cpp:12: GGML_ASSERT(n > 0) failed", "m.gguf")
    assert blamed.startswith("m.gguf could not be loaded: llama.cpp stopped at GGML_ASSERT(n > 0) failed (a-b.cpp:12).")
    assert "/tmp" not in sentence("/tmp/x/a.cpp:12: fatal error", None)
    assert "no reason was given" in sentence("", None)
