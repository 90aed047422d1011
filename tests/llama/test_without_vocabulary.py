"""Tests of a model that is loaded without its vocabulary: it computes and draws as with it."""

from __future__ import annotations

import logging
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.slow_mount import Mount, mounted, served_bytes, why_not
from tests.fakes import request
from tests.split_model import split_model
from tests.tiny_models import write_attention, write_encoder, write_recurrent, write_sliding_window
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.batch import Batch, Chunk, Open
from worker_gguf.engine.params import ContextParams, ModelParams, VocabularySize
from worker_gguf.engine.request import SamplingParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.engine.updates import Token
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import read_header
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner
from worker_gguf.start.params import vocabulary_size

PARAMS = ContextParams(
    n_ctx=256, n_parallel=1, n_cells=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, unified=True
)
GREEDY = SamplingParams(temperature=0.0)
DRY = replace(GREEDY, dry_multiplier=5.0, dry_allowed_length=1)
SAMPLINGS = {
    "greedy": GREEDY,
    "drawn": SamplingParams(seed=7),
    "penalties": replace(GREEDY, repeat_penalty=1.3),
    "DRY": DRY,
    "infill": SamplingParams(seed=7, samplers=("infill",)),
    "mirostat": SamplingParams(seed=7, mirostat=1),
}


def without(path: Path, fd: int | None = None, **params: str) -> Model:
    with path.open("rb") if fd is None else os.fdopen(os.dup(fd), "rb") as file:
        size = vocabulary_size(read_header(file, name=path.name))
    assert size is not None
    return Model(path, ModelParams(vocabulary_size=size, **params), fd=fd)  # type: ignore[arg-type]


@pytest.fixture
def bare() -> Iterator[Model]:
    loaded = without(MODEL_PATH)
    yield loaded
    loaded.close()


def answer(model: Model, like: Model, sampling: SamplingParams, n: int = 40) -> list[int]:
    """Answer a prompt in the vocabulary of the model `like`."""
    context = Context(model, PARAMS)
    runner = LlamaRunner(model, context, like.vocabulary.special)
    scheduler = Scheduler(runner.limits, eog=like.vocabulary.eog, max_queue=1)
    prompt = like.vocabulary.tokenize("one two three one two three one two", add_special=True, parse_special=True)
    scheduler.add(request("a", prompt, max_tokens=n, sampling=sampling))
    tokens: list[int] = []
    while (batch := scheduler.schedule()) is not None:
        result = runner.run(batch)
        assert result.error is None
        assert not result.refused
        tokens += [update.token for update in scheduler.commit(batch, result) if isinstance(update, Token)]
    context.close()
    return tokens


@pytest.mark.parametrize("name", SAMPLINGS)
def test_answers_are_those_of_a_model_with_its_vocabulary(model: Model, bare: Model, name: str) -> None:
    assert answer(bare, model, SAMPLINGS[name]) == answer(model, model, SAMPLINGS[name])


def test_the_texts_that_break_a_repetition_count(model: Model, bare: Model) -> None:
    never = replace(DRY, dry_sequence_breakers=())
    always = replace(DRY, dry_sequence_breakers=(" ", "one", "two", "three"))
    assert answer(bare, model, never) == answer(model, model, never)
    assert answer(bare, model, always) == answer(model, model, always)
    assert answer(bare, model, never) != answer(bare, model, always)


def test_it_has_as_many_tokens_and_no_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bare = without(MODEL_PATH)
    assert bare.n_vocab == 1024
    bare.close()
    assert not caplog.records


@pytest.mark.parametrize("write", [write_attention, write_recurrent, write_sliding_window])
def test_every_kind_of_memory_computes_the_same_without(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf")
    bare, whole = without(path), Model(path, ModelParams())
    drawn = replace(SAMPLINGS["drawn"], ignore_eos=True)
    assert answer(bare, whole, drawn) == answer(whole, whole, drawn)
    bare.close()
    whole.close()


def test_an_encoder_loads_without(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "model.gguf")
    bare, whole = without(path), Model(path, ModelParams())
    assert (bare.n_vocab, bare.n_params) == (whole.n_vocab, whole.n_params)
    bare.close()
    whole.close()


def test_the_vocabulary_is_read_when_it_is_needed(model: Model, bare: Model) -> None:
    assert bare.vocabulary is bare.vocabulary
    assert bare.vocabulary.special == model.vocabulary.special


@pytest.mark.parametrize("by_name", [True, False])
def test_the_vocabulary_is_that_of_the_loaded_file_if_another_stands_in_its_place(
    tmp_path: Path, model: Model, by_name: bool
) -> None:
    path = Path(shutil.copy(MODEL_PATH, tmp_path / "model.gguf"))
    with path.open("rb") as file:
        bare = without(path, None if by_name else file.fileno())
    write_sliding_window(tmp_path / "other.gguf").replace(path)
    assert bare.vocabulary.n_tokens == bare.n_vocab == 1024
    assert answer(bare, model, DRY) == answer(model, model, DRY)
    bare.close()


def test_a_split_model_reads_its_vocabulary_from_the_first_part(tmp_path: Path, model: Model) -> None:
    bare = without(split_model(MODEL_PATH, tmp_path)[0])
    assert answer(bare, model, DRY) == answer(model, model, DRY)
    bare.close()


def test_a_request_whose_vocabulary_cannot_be_read_is_refused_alone(model: Model, bare: Model) -> None:
    runner = LlamaRunner(bare, Context(bare, PARAMS), model.vocabulary.special)
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))  # no descriptor is left
    try:
        result = runner.run(Batch((Open(0, request("a", (1, 2), sampling=DRY), (1, 2)),), ()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))
    ((slot, error),) = result.refused
    assert slot == 0
    assert "The vocabulary of model.gguf could not be read: Too many open files" in str(error)
    opened = Open(0, request("b", (1, 2), sampling=GREEDY), (1, 2))
    assert len(runner.run(Batch((opened,), (Chunk(0, 0, [1, 2], n_outputs=1),))).sampled) == 1


@pytest.mark.skipif(why_not() is not None, reason=f"no FUSE mount: {why_not()}")
def test_reading_the_vocabulary_leaves_the_weights_in_the_page_cache(tmp_path: Path, model: Model) -> None:
    (tmp_path / "files").mkdir()
    shutil.copy(MODEL_PATH, tmp_path / "files" / "model.gguf")
    with mounted(tmp_path / "files", tmp_path / "mount", Mount(0.0, drops=True)) as mount:
        with (mount / "model.gguf").open("rb") as file:
            bare = without(mount / "model.gguf", file.fileno(), load_mode="mmap")
        expected = answer(bare, model, GREEDY)
        before = served_bytes(mount)
        assert answer(bare, model, DRY) != expected
        assert answer(bare, model, GREEDY) == expected
        assert served_bytes(mount) - before < MODEL_PATH.stat().st_size / 10
        bare.close()


def test_a_file_with_two_sizes_is_loaded_with_its_vocabulary(tmp_path: Path) -> None:
    header = read_header(MODEL_PATH)
    assert vocabulary_size(header) == VocabularySize("llama.vocab_size", 1024)
    metadata = {**header.metadata, "llama.vocab_size": 1030}
    assert vocabulary_size(replace(header, metadata=metadata)) is None


def test_a_wrong_size_is_an_error_of_the_load() -> None:
    with pytest.raises(ModelInvalid, match="could not be loaded"):
        Model(MODEL_PATH, ModelParams(vocabulary_size=VocabularySize("llama.vocab_size", 1000)))
