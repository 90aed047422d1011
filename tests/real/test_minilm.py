"""all-MiniLM-L6-v2: its vectors equal those of BERT in numpy, alone and in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray

from bench import minilm
from tests.pooled import pooled
from tests.real.bert import Bert
from tests.real.conftest import found, opened
from tests.real.texts import LANGUAGES, N_EACH, texts
from worker_gguf.start.loaded import LoadedModel

pytestmark = pytest.mark.real

TEXTS = texts()


@pytest.fixture(scope="module")
def folder() -> Path:
    return found(minilm.FOLDER)


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    path = minilm.write(folder, tmp_path_factory.mktemp("minilm") / "all-minilm-l6-v2.gguf")
    # One thread: in small steps, two wait for each other longer than they compute if other processes run.
    model = opened(path, n_ctx=None, n_parallel=None, n_threads=1)
    yield model
    model.stop()


@pytest.fixture(scope="module")
def tokens(folder: Path) -> list[list[int]]:
    """The tokens of the texts by the published tokenizer."""
    published = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    published.no_padding()
    published.no_truncation()
    return [published.encode(text).ids for text in TEXTS]


@pytest.fixture(scope="module")
def expected(folder: Path, tokens: list[list[int]]) -> NDArray[np.float64]:
    bert = Bert(folder)
    return np.array([bert.vector(each) for each in tokens])


def cosines(vectors: Sequence[NDArray[np.float32]], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = np.array(vectors, np.float64)
    similar: NDArray[np.float64] = (rows * expected).sum(axis=1) / np.linalg.norm(rows, axis=1)
    return similar


def test_there_are_200_texts_in_ten_languages_of_many_lengths(tokens: list[list[int]]) -> None:
    assert len(set(TEXTS)) == 200
    assert min(map(len, tokens)) < 10
    assert max(map(len, tokens)) > 64


def test_the_tokens_are_those_of_the_published_tokenizer(loaded: LoadedModel, tokens: list[list[int]]) -> None:
    # llama.cpp leaves out all marks, the published tokenizer only those without a width of their own. So the vowel
    # signs of Hindi get lost.
    hindi = range(list(LANGUAGES).index("Hindi") * N_EACH, (list(LANGUAGES).index("Hindi") + 1) * N_EACH)
    for number, text in enumerate(TEXTS):
        ours = loaded.vocabulary.tokenize(text, add_special=True, parse_special=False)
        assert ours == tokens[number] or number in hindi, text


def test_the_longest_input_is_that_of_the_model(loaded: LoadedModel) -> None:
    limits = loaded.engine.limits
    assert limits.n_ctx == 512
    assert limits.pooling is not None
    assert (limits.pooling.n_values, limits.pooling.is_whole, limits.pooling.ranks) == (384, True, False)


def test_vectors_of_texts_alone_equal_those_of_numpy(
    loaded: LoadedModel, tokens: list[list[int]], expected: NDArray[np.float64]
) -> None:
    async def alone() -> list[NDArray[np.float32]]:
        return [(await pooled(loaded.engine, [each]))[0] for each in tokens]

    assert cosines(asyncio.run(alone()), expected).min() > 0.999


def test_vectors_of_64_texts_at_once_equal_those_of_numpy(
    loaded: LoadedModel, tokens: list[list[int]], expected: NDArray[np.float64]
) -> None:
    async def together() -> list[NDArray[np.float32]]:
        groups = [tokens[at : at + 64] for at in range(0, len(tokens), 64)]
        return [vector for group in groups for vector in await pooled(loaded.engine, group)]

    n_steps = loaded.stats.steps
    assert cosines(asyncio.run(together()), expected).min() > 0.999
    assert loaded.stats.steps - n_steps < len(TEXTS) / 4, "the texts were not computed together"


def test_an_input_of_the_longest_length_is_computed(loaded: LoadedModel, folder: Path) -> None:
    longest = [101, *(2000 + n for n in range(510)), 102]
    (vector,) = asyncio.run(pooled(loaded.engine, [longest]))
    assert cosines([vector], Bert(folder).vector(longest)[None])[0] > 0.999
