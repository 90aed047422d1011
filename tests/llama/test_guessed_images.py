"""Tests of guessed tokens in answers to images: they are those without guesses, whatever guesses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import projectors
from tests.fakes import request
from tests.image_files import png
from tests.llama.test_mtp import GREEDY, PARAMS, Engine, mtp_params, words
from tests.mtp_models import write_mtp
from tests.tiny_models import write_attention
from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.engine.params import ModelParams
from worker_gguf.engine.scheduler import Scheduler
from worker_gguf.llama.context import Context
from worker_gguf.llama.draft import LlamaDrafter
from worker_gguf.llama.images import Images
from worker_gguf.llama.model import Model
from worker_gguf.llama.projector import Projector
from worker_gguf.llama.runner import LlamaRunner

WIDTH = 32


class Seeing(Engine):
    """An engine whose requests may have images."""

    def see(self, mmproj: Path) -> Seeing:
        projector = Projector(mmproj, self.model, n_threads=1)
        self.images = Images(projector, n_ctx=256, n_ubatch=64, limit_bytes=1 << 20)
        self.runner = LlamaRunner(self.model, self.context, self.model.vocabulary.special, images=self.images)
        return self

    def ask(self, prompt: list[int], *images: bytes, n: int = 60) -> list[int]:
        name = f"p{len(self.tokens)}"
        self.tokens[name] = []
        sampling = replace(GREEDY, ignore_eos=True)
        given = request(name, prompt, images=images, max_tokens=n, sampling=sampling)
        self.scheduler.add(self.images.prepare(given))
        self.finish()
        return self.tokens[name]

    def close(self) -> None:
        self.images.close()
        super().close()


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return projectors.write(tmp_path_factory.mktemp("mmproj") / "mmproj.gguf", projectors.Projector("mlp", WIDTH))


@pytest.fixture(scope="module")
def with_layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_mtp(tmp_path_factory.mktemp("mtp") / "mtp.gguf", architecture="deepseek2", agreement=0.9)
    model = Model(path, ModelParams(has_mtp=True))
    yield model
    model.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(write_attention(tmp_path_factory.mktemp("plain") / "model.gguf"), ModelParams())
    yield model
    model.close()


def prompts() -> list[tuple[list[int], tuple[bytes, ...]]]:
    before, after = words(1, 40), words(2, 30)
    return [
        ([*before, IMAGE, *after], (png(1),)),
        ([IMAGE, *after, IMAGE, *before], (png(2), png(1))),
        (words(3, 50), ()),
        ([*before, IMAGE, *after, *words(4, 9)], (png(1),)),
    ]


def answers(engine: Seeing) -> list[list[int]]:
    return [engine.ask(prompt, *images) for prompt, images in prompts()]


def test_the_mtp_layer_goes_on_after_an_image(with_layer: Model, mmproj: Path) -> None:
    without = Seeing(with_layer, replace(PARAMS, n_rows=3), has_mtp=False).see(mmproj)
    engine = Seeing(with_layer, PARAMS, own=mtp_params(PARAMS)).see(mmproj)
    assert answers(engine) == answers(without)
    assert engine.n_drafted > 0
    for made in (engine, without):
        made.close()


def test_a_draft_model_guesses_for_texts_alone(plain: Model, mmproj: Path, tmp_path: Path) -> None:
    draft = Model(write_attention(tmp_path / "draft.gguf"), ModelParams())
    own = Context(draft, mtp_params(PARAMS))
    drafter = LlamaDrafter(draft, own, plain.n_vocab)
    without = Seeing(plain, replace(PARAMS, n_rows=3), has_mtp=False).see(mmproj)
    engine = Seeing(plain, PARAMS, has_mtp=False).see(mmproj)
    engine.scheduler = Scheduler(engine.runner.limits, eog=plain.vocabulary.eog, max_queue=100, drafter=drafter)
    drafted: list[int] = []
    for (prompt, images), expected in zip(prompts(), answers(without), strict=True):
        before = engine.n_drafted
        assert engine.ask(prompt, *images) == expected
        drafted.append(engine.n_drafted - before)
    assert [n > 0 for n in drafted] == [False, False, True, False]
    own.close()
    for made in (engine, without):
        made.close()
    draft.close()


def test_a_repeated_text_is_guessed_after_an_image_and_rows_never_are(plain: Model, mmproj: Path) -> None:
    engine = Seeing(plain, PARAMS, has_mtp=False).see(mmproj)
    without = Seeing(plain, replace(PARAMS, n_rows=3), has_mtp=False).see(mmproj)
    prompt = [*words(5, 20), IMAGE, *words(5, 20)]
    repeated: Sequence[int] = engine.ask(prompt, png(3), n=120)
    assert repeated == without.ask(prompt, png(3), n=120)
    for made in (engine, without):
        made.close()
