"""all-MiniLM-L6-v2: its vectors equal those of BERT in numpy, alone and in a batch."""

from __future__ import annotations

import asyncio
import random
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
from tests.real.texts import texts
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
def published(folder: Path) -> tokenizers.Tokenizer:
    """The published tokenizer, which fills nothing up and cuts nothing."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def tokens(published: tokenizers.Tokenizer) -> list[list[int]]:
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
    for number, text in enumerate(TEXTS):
        assert loaded.vocabulary.tokenize(text, add_special=True, parse_special=True) == tokens[number], text


def test_the_tokens_of_random_characters_are_those_of_the_published_tokenizer(
    loaded: LoadedModel, published: tokenizers.Tokenizer
) -> None:
    chosen = random.Random(12)
    alphabet = [
        *"aBcÉßİ .,!$'-\t\n\u200b\u00a0\u0301",
        *"हिन्दीকিতমிழ்ไทยน้ำ",
        *"한국어강",
        *"日本か゛がé",
        "\x0b",
        "▁",
        "\u20dd",
        "[MASK]",
    ]
    for _ in range(2000):
        text = "".join(chosen.choices(alphabet, k=chosen.randrange(1, 40)))
        ours = loaded.vocabulary.tokenize(text, add_special=True, parse_special=True)
        assert ours == published.encode(text).ids, text


@pytest.mark.parametrize("text", ["a" * 100, "a" * 101, f"cat {'é' * 101} dog", f"{'a' * 60}.{'b' * 60}", "漢" * 300])
def test_a_word_of_more_than_100_characters_is_unknown(
    loaded: LoadedModel, published: tokenizers.Tokenizer, text: str
) -> None:
    assert loaded.vocabulary.tokenize(text, add_special=True, parse_special=True) == published.encode(text).ids


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
