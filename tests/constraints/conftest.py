"""The vocabulary of the embedded model, as the constraints use it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from worker_gguf.constraints.matcher import Grammars
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.llama.vocabulary import Vocabulary
from worker_gguf.llama.vocabulary_only import read_vocabulary


@pytest.fixture(scope="session")
def vocabulary() -> Iterator[Vocabulary]:
    with MODEL_PATH.open("rb") as file:
        read = read_vocabulary(file.fileno(), MODEL_PATH.name)
    yield read
    read.close()


@pytest.fixture(scope="session")
def grammars(vocabulary: Vocabulary) -> Grammars:
    return Grammars(vocabulary.table(vocabulary.eog))
