"""Tests of the first look at a model: its header and vocabulary, read beside the imports of the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.similar_models import write_with_other_text
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import read_header
from worker_gguf.observe.timeline import Timeline
from worker_gguf.readahead.prefetch import Prefetch
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.first_look import FirstLook
from worker_gguf.start.head_start import HeadStart
from worker_gguf.start.start import Start


def settings(model: Path | str = "embedded") -> Settings:
    return Settings(model=str(model), n_threads=1, n_parallel=1, n_ctx=256)


def test_it_has_the_header_and_the_vocabulary_of_the_file() -> None:
    timeline, prefetch = Timeline(), Prefetch((MODEL_PATH,)).start()
    look = FirstLook(prefetch, timeline).start()
    assert look.header() == read_header(MODEL_PATH)
    vocabulary = look.vocabulary.result()
    assert vocabulary.tokenize("<|eot_id|>", add_special=False, parse_special=True) == [1022]
    assert 1022 in vocabulary.special.eog
    assert {"header", "vocabulary"} <= timeline.seconds().keys()
    vocabulary.close()
    prefetch.close()


def test_a_damaged_header_is_the_error_of_both(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + b"\xff" * 100)
    prefetch = Prefetch((damaged,)).start()
    look = FirstLook(prefetch, Timeline()).start()
    with pytest.raises(ModelInvalid, match=r"damaged\.gguf"):
        look.header()
    with pytest.raises(ModelInvalid, match=r"damaged\.gguf"):
        look.vocabulary.result()
    prefetch.close()


def test_a_start_goes_on_with_what_has_begun() -> None:
    start = Start(settings())
    begun = HeadStart(Prefetch((MODEL_PATH,)).start()).with_look(start.timeline)
    assert begun.look is not None
    loaded = boot(start, begun)
    assert loaded.vocabulary is begun.look.vocabulary.result()
    assert [phase.name for phase in start.timeline.phases if phase.name in ("header", "vocabulary")] == [
        "header",
        "vocabulary",
    ]
    loaded.stop()


def test_a_look_at_another_model_than_that_of_the_settings_is_not_used(tmp_path: Path) -> None:
    other = write_with_other_text(tmp_path / "other.gguf")
    start = Start(settings())
    begun = HeadStart(Prefetch((other,)).start()).with_look(start.timeline)
    assert begun.look is not None
    begun.look.vocabulary.result()
    loaded = boot(start, begun)
    assert loaded.vocabulary is not begun.look.vocabulary.result()
    assert loaded.vocabulary.token_text(1023) == "<|python_tag|>"
    loaded.stop()


def test_without_a_prefetch_there_is_no_look() -> None:
    assert HeadStart(None).with_look(Timeline()).look is None


def test_it_settles_when_the_vocabulary_is_loaded() -> None:
    prefetch = Prefetch((MODEL_PATH,)).start()
    look = FirstLook(prefetch, Timeline()).start()
    look.settle(60)
    assert look.vocabulary.done()
    look.vocabulary.result().close()
    prefetch.close()
