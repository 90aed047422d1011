"""Tests of requests with images: answered as the library's helper answers, encoded once, and never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench import adapters as lora
from tests.image_files import png
from tests.image_reference import PARAMS, Piece, by_the_helper
from tests.llama.test_projector import KINDS, WIDTH, write_projector
from tests.threaded_link import engine_of
from tests.waiting import MOST_S, wait_until
from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.engine.params import ModelParams
from worker_gguf.engine.request import Constraint, GenerationRequest, SamplingParams
from worker_gguf.errors import ContextLengthExceeded, InvalidRequest
from worker_gguf.generation.engine import Engine
from worker_gguf.generation.events import Delta, Finished
from worker_gguf.llama.adapters import Adapter
from worker_gguf.llama.alternation import Alternation
from worker_gguf.llama.context import Context
from worker_gguf.llama.images import Images
from worker_gguf.llama.model import Model
from worker_gguf.llama.projector import Projector
from worker_gguf.llama.row_batch import Rows
from worker_gguf.llama.runner import LlamaRunner

BOS = 256
N = 16


class Seeing:
    """An engine whose model has a projector, and a LoRA adapter if it `is_adapted`."""

    def __init__(self, kind: str, folder: Path, limit_bytes: int = 1 << 24, *, is_adapted: bool = False) -> None:
        self.path = KINDS[kind](folder / f"{kind}.gguf")
        self.mmproj = write_projector(folder / f"mmproj-{kind}.gguf", kind)
        model, turns = Model(self.path, ModelParams()), Alternation()
        projector = Projector(self.mmproj, model, n_threads=1, alternation=turns)
        self.images = Images(projector, n_ctx=PARAMS.n_ctx, n_ubatch=PARAMS.n_ubatch, limit_bytes=limit_bytes)
        special = model.vocabulary.special
        self.lora = folder / "lora.gguf"
        adapters = [Adapter(model, "model", "lora", lora.write(self.lora, self.path))] if is_adapted else []
        context = Context(model, PARAMS)
        runner = LlamaRunner(model, context, special, adapters=adapters, images=self.images, alternation=turns)
        assert runner.limits.divides_images
        self.engine = engine_of(runner, cast(Any, model.vocabulary), eog=special.eog)
        self.engine.start()

    def expected(self, pieces: Sequence[Piece], n: int = N) -> list[int]:
        model = Model(self.path, ModelParams())
        projector = Projector(self.mmproj, model, n_threads=1)
        found = by_the_helper(model, projector, pieces, n)
        projector.close()
        model.close()
        return found


@pytest.fixture(scope="module", params=list(KINDS))
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeing]:
    made = Seeing(request.param, tmp_path_factory.mktemp("seeing"))
    yield made
    made.engine.stop()


def request_of(name: str, pieces: Sequence[Piece], n: int = N, **changes: Any) -> GenerationRequest:
    prompt = [BOS]
    for piece in pieces:
        prompt += [IMAGE] if isinstance(piece, bytes) else piece
    images = tuple(piece for piece in pieces if isinstance(piece, bytes))
    sampling = SamplingParams(temperature=0.0)
    return GenerationRequest(name, tuple(prompt), sampling, max_tokens=n, images=images, **changes)


async def answer(engine: Engine, request: GenerationRequest) -> tuple[list[int], Finished]:
    tokens: list[int] = []
    async for items in engine.submit(request):
        for event in items[0]:
            if isinstance(event, Delta):
                tokens += event.tokens
            elif isinstance(event, Finished):
                return tokens, event
    raise AssertionError("no ending")


def asked(engine: Engine, *requests: GenerationRequest) -> list[tuple[list[int], Finished]]:
    async def ask() -> list[tuple[list[int], Finished]]:
        return await asyncio.gather(*(answer(engine, request) for request in requests))

    return asyncio.run(ask())


def test_an_image_is_answered_as_by_the_librarys_helper_alone_and_beside_others(seeing: Seeing) -> None:
    pieces: list[Piece] = [[70, 71, 72], png(1), [80, 81]]
    expected = seeing.expected(pieces)
    ((alone, _),) = asked(seeing.engine, request_of("alone", pieces))
    assert alone == expected
    others = [request_of(f"text {i}", [[9 * i, 40, 50 + i] * 7], 30) for i in range(8)]
    answers = asked(seeing.engine, *others, request_of("beside", pieces, cache_prompt=False))
    assert answers[-1][0] == expected
    assert [tokens for tokens, _ in answers[:-1]] == [
        tokens for (tokens, _) in (asked(seeing.engine, other)[0] for other in others)
    ]


def test_several_images_are_answered_in_their_order(seeing: Seeing) -> None:
    pieces: list[Piece] = [[70], png(3, 40, 40), [60, 61], png(4, 90, 30), png(3, 40, 40), [80]]
    ((tokens, ending),) = asked(seeing.engine, request_of("several", pieces))
    assert tokens == seeing.expected(pieces)
    assert ending.usage.prompt_tokens > 3 * 4 + len(pieces)


def test_the_same_image_is_encoded_once(seeing: Seeing) -> None:
    before = seeing.images.work.encoded
    pieces: list[Piece] = [[70], png(5), [71], png(5), [72]]
    ((first, _),) = asked(seeing.engine, request_of("first", pieces))
    ((again, ending),) = asked(seeing.engine, request_of("again", pieces))
    assert seeing.images.work.encoded == before + 1
    assert again == first
    assert ending.usage.cached_tokens == ending.usage.prompt_tokens - 1


def test_the_next_turn_reuses_the_image(seeing: Seeing) -> None:
    pieces: list[Piece] = [[50, 51], png(6), [52, 53]]
    ((first, ending),) = asked(seeing.engine, request_of("turn 1", pieces))
    longer: list[Piece] = [[50, 51], png(6), [52, 53, *first, 54, 55]]
    ((second, next_ending),) = asked(seeing.engine, request_of("turn 2", longer))
    ((fresh, _),) = asked(seeing.engine, request_of("fresh", longer, cache_prompt=False))
    assert second == fresh
    assert next_ending.usage.cached_tokens >= ending.usage.prompt_tokens


def test_an_answer_to_an_image_can_be_held_to_a_grammar(seeing: Seeing) -> None:
    constraint = Constraint("regex", "[a-c]{5}")
    ((tokens, ending),) = asked(seeing.engine, request_of("held", [png(7), [40]], constraint=constraint))
    assert ending.reason == "stop"
    assert len(tokens) == 5


def test_what_is_not_an_image_is_refused_and_others_go_on(seeing: Seeing) -> None:
    bad = request_of("bad", [[40], b"\x89PNG\r\n\x1a\nnothing", [41]])
    refused, other = asked(seeing.engine, bad, request_of("other", [[42]]))
    assert isinstance(refused[1].error, InvalidRequest)
    assert other[1].reason == "length"


def test_images_that_exceed_the_context_are_refused_with_the_length(seeing: Seeing) -> None:
    pieces: list[Piece] = [png(i, 40, 40) for i in range(10, 80)]
    ((_, ending),) = asked(seeing.engine, request_of("long", pieces))
    assert isinstance(ending.error, ContextLengthExceeded)
    assert ending.error.n_ctx == PARAMS.n_ctx
    assert ending.error.n_prompt_tokens >= PARAMS.n_ctx


def test_a_row_is_tried_out_and_leaves_the_context_empty(seeing: Seeing) -> None:
    model = Model(seeing.path, ModelParams())
    context = Context(model, PARAMS)
    fresh = context.decode([Chunk(0, 0, [1, 2, 3], 1)]).copy()
    context.truncate(0, 0)
    seeing.images.try_out(context)
    assert np.array_equal(context.decode([Chunk(0, 0, [1, 2, 3], 1)]), fresh)
    context.close()
    model.close()


def test_an_image_for_a_model_without_a_projector_is_refused(tmp_path: Path) -> None:
    model = Model(KINDS["mlp"](tmp_path / "model.gguf"), ModelParams())
    engine = engine_of(LlamaRunner(model, Context(model, PARAMS)), cast(Any, model.vocabulary))
    engine.start()
    ((_, ending),) = asked(engine, request_of("blind", [png(1)]))
    engine.stop()
    assert isinstance(ending.error, InvalidRequest)
    assert "no projector" in ending.error.message


class FakeProjector:
    """Sees `n_rows` rows in each image, between two tokens, and encodes while `gate` is open."""

    width = 4

    def __init__(self, n_rows: int = 10, *, is_causal: bool = True) -> None:
        self.n_rows, self.is_causal = n_rows, is_causal
        self.gate, self.begun = threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.is_closed = False

    @contextmanager
    def look(self, data: bytes) -> Iterator[Any]:
        yield SimpleNamespace(parts=((1,), self.n_rows, (2,)), encode=self._encode)

    def _encode(self) -> tuple[Rows, ...]:
        self.begun.release()
        assert self.gate.wait(MOST_S)
        return (Rows(np.zeros((self.n_rows, self.width), np.float32), self.n_rows),)

    def close(self) -> None:
        self.is_closed = True


Make = Callable[..., tuple[Images, FakeProjector]]
_ROW_BYTES = 4 * FakeProjector.width


def images_of(limit_rows: int = 100, **projector: Any) -> tuple[Images, FakeProjector]:
    fake = FakeProjector(**projector)
    limit = limit_rows * _ROW_BYTES
    return Images(cast(Projector, fake), n_ctx=64, n_ubatch=16, limit_bytes=limit), fake


def test_a_prompt_gets_the_tokens_around_an_image_and_a_run_of_rows() -> None:
    images, _ = images_of()
    made = images.prepare(request_of("a", [[5], b"x", [6]]))
    assert made.prompt[:3] == (BOS, 5, 1)
    assert made.prompt[-2:] == (2, 6)
    (run,) = made.runs
    assert made.prompt[run.start] < IMAGE
    assert (run.start, run.n_rows, run.is_whole) == (3, 10, False)
    assert made.images == ()
    assert len(images.rows(made.prompt[run.start]).values) == 10


def test_a_prompt_may_fill_the_context_but_for_one_token() -> None:
    images, _ = images_of()
    # BOS, two tokens around ten rows, and the text.
    assert len(images.prepare(request_of("longest", [[5] * 25, b"x", [6] * 25])).prompt) == 63
    longer: list[list[Piece]] = [[[5] * 51, b"y"], [b"y", [6] * 51], [b"y", [5] * 30, b"y", [6] * 9]]
    for pieces in longer:
        with pytest.raises(ContextLengthExceeded):
            images.prepare(request_of("longer", pieces))


def test_an_image_that_cannot_fit_is_not_encoded() -> None:
    images, _ = images_of()
    with pytest.raises(ContextLengthExceeded):
        images.prepare(request_of("long", [[5] * 25, b"x", [6] * 28]))
    assert images.work.encoded == 0


def test_rows_that_no_request_uses_are_dropped_for_others_the_oldest_first() -> None:
    images, _ = images_of(limit_rows=25)
    made = {name: images.prepare(request_of(name, [name.encode()])) for name in ("a", "b")}
    for name in made:
        images.forget(name)
    images.prepare(request_of("c", [b"c"]))
    images.forget("c")
    with pytest.raises(KeyError):
        images.rows(made["a"].prompt[2])
    assert len(images.rows(made["b"].prompt[2]).values) == 10
    assert images.work.encoded == 3
    images.prepare(request_of("b again", [b"b"]))
    assert images.work.encoded == 3
    # The same image has the same ids when it must be encoded again.
    assert images.prepare(request_of("a", [b"a"])).prompt == made["a"].prompt
    assert images.work.encoded == 4


def test_a_request_waits_while_others_use_all_the_room() -> None:
    images, fake = images_of(limit_rows=15)
    first = images.prepare(request_of("first", [b"1"]))
    done: list[GenerationRequest] = []
    thread = threading.Thread(target=lambda: done.append(images.prepare(request_of("second", [b"2"]))))
    thread.start()
    assert fake.begun.acquire(timeout=MOST_S)
    assert not fake.begun.acquire(timeout=0.3)
    assert len(images.rows(first.prompt[2]).values) == 10
    images.forget("first")
    thread.join(MOST_S)
    assert len(done) == 1
    with pytest.raises(KeyError):
        images.rows(first.prompt[2])


def test_a_request_alone_may_use_more_than_the_limit() -> None:
    images, _ = images_of(limit_rows=15)
    made = images.prepare(request_of("a", [b"1", b"2", b"3"]))
    assert len(made.runs) == 3
    assert all(len(images.rows(made.prompt[run.start]).values) == 10 for run in made.runs)


def test_a_request_that_is_cancelled_meanwhile_stops_waiting() -> None:
    images, _ = images_of(limit_rows=15)
    images.prepare(request_of("first", [b"1"]))
    wanted = threading.Event()
    thread = threading.Thread(target=lambda: images.prepare(request_of("second", [b"2"]), lambda: not wanted.is_set()))
    thread.start()
    wanted.set()
    thread.join(MOST_S)
    assert not thread.is_alive()
    assert images.work.encoded == 1


def test_rows_that_see_each_other_and_do_not_fit_into_a_step_are_refused() -> None:
    images, _ = images_of(n_rows=17, is_causal=False)
    with pytest.raises(InvalidRequest, match=r"takes 17 tokens.* N_UBATCH=16"):
        images.prepare(request_of("a", [b"x"]))
    assert images.work.encoded == 0


def test_a_cancel_while_an_image_is_encoded_frees_all_and_others_run(tmp_path: Path) -> None:
    model = Model(KINDS["mlp"](tmp_path / "model.gguf"), ModelParams())
    fake = FakeProjector()
    fake.width = WIDTH
    fake.gate.clear()
    images = Images(cast(Projector, fake), n_ctx=PARAMS.n_ctx, n_ubatch=128, limit_bytes=1 << 20)
    engine = engine_of(LlamaRunner(model, Context(model, PARAMS), images=images), cast(Any, model.vocabulary))
    engine.start()

    async def cancel() -> list[str]:
        stream = engine.submit(request_of("gone", [b"x", [40]]))
        assert fake.begun.acquire(timeout=MOST_S)
        tokens, ending = await answer(engine, request_of("other", [[41]]))
        assert (len(tokens), ending.reason) == (N, "length")
        engine.cancel("gone")
        return [event.reason async for items in stream for event in items[0] if isinstance(event, Finished)]

    assert asyncio.run(cancel()) == ["cancelled"]
    fake.gate.set()
    wait_until(lambda: images.work.encoded == 1)
    ((tokens, _),) = asked(engine, request_of("again", [b"x", [40]]))
    assert len(tokens) == N
    assert images.work.encoded == 1
    wait_until(lambda: not images._used_by)
    engine.stop()
    assert fake.is_closed
