"""Tests of projectors: images become the rows that mtmd's own helper computes, and so do the answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import projectors
from tests.image_files import png
from tests.image_reference import PARAMS, by_the_helper
from tests.tiny_models import write_attention, write_multi_rope, write_sliding_window
from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.params import ModelParams
from worker_gguf.errors import InvalidRequest, ModelInvalid
from worker_gguf.llama.alternation import Alternation
from worker_gguf.llama.candidates import Floats
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.projector import Projector
from worker_gguf.llama.row_batch import Rows

WIDTH = 32
KINDS: dict[str, Callable[[Path], Path]] = {
    "mlp": write_attention,
    "gemma3": write_sliding_window,
    "qwen2vl_merger": write_multi_rope,
    "mlp in tiles": write_attention,
}
BEFORE, AFTER = [256, 70, 71, 72], [80, 81]


def write_projector(path: Path, kind: str, n_out: int = WIDTH) -> Path:
    """Write a projector of one of the KINDS."""
    name, _, in_tiles = kind.partition(" ")
    return projectors.write(
        path, projectors.Projector(name, n_out, tiles=(112, 56, 56, 112, 112, 112) * bool(in_tiles))
    )


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    loaded = Model(KINDS[kind](tmp_path_factory.mktemp("models") / "model.gguf"), ModelParams())
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def projector(kind: str, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projector]:
    path = tmp_path_factory.mktemp("projectors") / "mmproj.gguf"
    write_projector(path, kind)
    loaded = Projector(path, model, n_threads=1)
    yield loaded
    loaded.close()


@pytest.fixture
def context(model: Model) -> Iterator[Context]:
    made = Context(model, PARAMS)
    yield made
    made.close()


def seen(projector: Projector, data: bytes) -> list[list[int] | Rows]:
    """Return the parts of an image: tokens and encoded rows."""
    with projector.look(data) as image:
        runs = iter(image.encode())
        return [next(runs) if isinstance(part, int) else list(part) for part in image.parts]


def decode(context: Context, projector: Projector, data: bytes, slot: int = 0, part: int | None = None) -> int:
    """Compute BEFORE, an image and AFTER but its last token, and return the number of tokens in the slot."""
    at = 0
    for piece in (BEFORE, *seen(projector, data), AFTER[:-1]):
        if isinstance(piece, list):
            context.decode([Chunk(slot, at, piece, 0)])
            at += len(piece)
            continue
        n = len(piece.values)
        step = part or n
        for first in range(0, n, step):
            chunk = Chunk(slot, at + first, [-1] * min(step, n - first), 0)
            context.decode_rows(chunk, piece, first, is_causal=projector.is_causal)
        at += n
    return at


def drawn(context: Context, slot: int, at: int, n: int) -> list[int]:
    """Return the most likely tokens after the last token of AFTER."""
    tokens = [AFTER[-1]]
    for i in range(n):
        tokens.append(int(context.decode([Chunk(slot, at + i, [tokens[-1]], 1)])[0].argmax()))
    return tokens[1:]


def test_an_answer_to_an_image_is_that_of_the_librarys_helper(
    model: Model, projector: Projector, context: Context
) -> None:
    at = decode(context, projector, png(1))
    assert drawn(context, 0, at, 24) == by_the_helper(model, projector, [BEFORE[1:], png(1), AFTER], 24)


def test_an_image_is_encoded_equally_with_pauses_between_its_operations(
    model: Model, projector: Projector, kind: str, tmp_path: Path
) -> None:
    class Counted(Alternation):
        n_pauses = 0

        def pause(self) -> None:
            self.n_pauses += 1
            super().pause()

    counted = Counted()
    pausing = Projector(write_projector(tmp_path / "mmproj.gguf", kind), model, n_threads=1, alternation=counted)
    assert counted.n_pauses == 0
    found, expected = seen(pausing, png(1)), seen(projector, png(1))
    pausing.close()
    assert counted.n_pauses > 10
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Rows) and isinstance(other, Rows):
            assert (one.values == other.values).all()
        else:
            assert one == other


def test_another_image_gives_another_answer(projector: Projector, context: Context) -> None:
    first = drawn(context, 0, decode(context, projector, png(1)), 24)
    assert drawn(context, 1, decode(context, projector, png(2), slot=1), 24) != first


def test_a_slot_that_is_cut_after_or_before_an_image_goes_on_as_before(projector: Projector, context: Context) -> None:
    at = decode(context, projector, png(1))
    answer = drawn(context, 0, at, 12)
    assert context.truncate(0, at)
    assert drawn(context, 0, at, 12) == answer
    assert context.truncate(0, len(BEFORE))
    context.decode([Chunk(0, len(BEFORE), [1, 2, 3], 0)])
    assert context.truncate(0, 0)
    assert drawn(context, 0, decode(context, projector, png(1)), 12) == answer


def test_a_copy_and_a_saved_state_go_on_after_the_image(projector: Projector, context: Context) -> None:
    at = decode(context, projector, png(1))
    state = context.save(0)
    assert state is not None
    answer = drawn(context, 0, at, 12)
    assert context.copy(0, 2, at)
    assert drawn(context, 2, at, 12) == answer
    assert context.load(1, state)
    assert drawn(context, 1, at, 12) == answer


def test_an_image_can_be_computed_in_parts_where_its_rows_look_back_alone(
    kind: str, projector: Projector, context: Context
) -> None:
    if not projector.is_causal:
        pytest.skip(f"{kind}: rows see each other")
    answer = drawn(context, 0, decode(context, projector, png(1)), 12)
    assert drawn(context, 1, decode(context, projector, png(1), slot=1, part=5), 12) == answer


def test_an_image_that_cannot_be_decoded_is_refused(projector: Projector) -> None:
    with pytest.raises(InvalidRequest, match="cannot be decoded"), projector.look(b"\x89PNG\r\n\x1a\nnothing"):
        pass


def test_the_projector_of_another_model_is_refused(model: Model, kind: str, tmp_path: Path) -> None:
    path = write_projector(tmp_path / "mmproj.gguf", kind, 2 * WIDTH)
    with pytest.raises(ModelInvalid, match=r"mmproj.gguf is the projector of another model.* 64 numbers.* 32"):
        Projector(path, model, n_threads=1)


def test_a_file_that_is_no_projector_is_refused(model: Model, tmp_path: Path) -> None:
    path = write_attention(tmp_path / "model.gguf")
    with pytest.raises(ModelInvalid, match=r"The projector model.gguf could not be loaded"):
        Projector(path, model, n_threads=1)


def test_rows_have_the_width_of_the_models_input(projector: Projector) -> None:
    rows: list[Floats] = [part.values for part in seen(projector, png(1)) if isinstance(part, Rows)]
    assert rows
    assert all(values.shape[1] == WIDTH for values in rows)
