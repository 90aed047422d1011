"""Tests of opening a model."""

from __future__ import annotations

import ast
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.machine import Machine
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import read_header
from worker_gguf.link.messages import ContextOpened, Load, ModelLoaded, OpenContext
from worker_gguf.plan.planning import plan_for
from worker_gguf.settings import Settings
from worker_gguf.start import first_look, opening
from worker_gguf.start import open_model as module
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import LATE_IMPORTS, open_model
from worker_gguf.start.opening import Opening, Weights
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel, ModelRef, UsageMark
from worker_gguf.store.resolve import locate


def halved(machine: Machine) -> Machine:
    return replace(machine, free_bytes=machine.free_bytes // 2)


BOTH = pytest.mark.parametrize("is_first", [True, False], ids=["first", "beside others"])


def opened(path: Path, *, is_first: bool = False, **own: object) -> LoadedModel:
    """Open a model beside others, or as the first one, whose engine process loads no vocabulary."""
    values = {"model": str(path), "n_threads": 1, "n_parallel": 1, "n_ctx": 256} | own
    start = Start(Settings(**{name: value for name, value in values.items() if value is not None}))  # type: ignore[arg-type]
    local = local_of(path)
    with ReadAhead(start) as ahead:
        mark = UsageMark(local.paths, start.settings.cache_dir())
        return open_model(start, local, mark, ahead, EngineStart(), left_of=None if is_first else halved)


def test_a_loaded_model_has_the_whole_machine_and_not_the_part_that_others_leave() -> None:
    loaded = opened(MODEL_PATH)
    loaded.stop()
    assert loaded.plan.devices[-1].room_bytes <= loaded.machine.free_bytes // 2


def test_the_late_imports_are_those_of_the_module() -> None:
    trees = [ast.parse(Path(found.__file__ or "").read_text()) for found in (module, opening, first_look)]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {node.module for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
    assert found == set(LATE_IMPORTS)


@BOTH
def test_an_engine_process_that_dies_while_it_opens_the_context_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_first: bool
) -> None:
    """The system ends the process like this if main memory is used up."""
    real, pids = EngineStart.open, []

    def killed_at_first(self: EngineStart, command: OpenContext) -> ContextOpened:
        pids.append(self.begin().pid)
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)
        return real(self, command)

    monkeypatch.setattr(EngineStart, "open", killed_at_first)
    loaded = opened(MODEL_PATH, is_first=is_first, n_parallel=None)
    loaded.stop()
    assert len(set(pids)) == 2
    assert loaded.plan.n_parallel == 2
    assert loaded.describe()["plan"]["degraded"] == (
        "N_PARALLEL=2 instead of 4: the engine process died while it opened the context",
    )
    (line,) = (record for record in caplog.records if "died" in record.getMessage())
    assert "SIGKILL" in vars(line)["reason"]


def test_the_log_says_in_one_sentence_what_was_weighed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        loaded = opened(MODEL_PATH)
    loaded.stop()
    (line,) = (record for record in caplog.records if record.getMessage() == "memory weighed")
    assert vars(line)["reason"] == loaded.describe()["plan"]["weighed"]
    assert vars(line)["reason"].startswith("256 tokens for 1 request (set): ")


@BOTH
def test_an_encoder_loads_and_makes_a_vector(tmp_path: Path, is_first: bool) -> None:
    loaded = opened(write_encoder(tmp_path / "encoder.gguf"), is_first=is_first)
    loaded.stop()
    assert loaded.describe()["model"]["capabilities"] == ["embedding"]
    (vector,) = (check for check in loaded.checks if check.name == "vector")
    assert (vector.ok, vector.reason) == (True, "one was computed")
    assert "token" not in {check.name for check in loaded.checks}


@BOTH
def test_a_reranker_loads(tmp_path: Path, is_first: bool) -> None:
    loaded = opened(write_reranker(tmp_path / "reranker.gguf"), is_first=is_first)
    loaded.stop()
    assert loaded.service.card.capabilities == ("rerank",)


def local_of(path: Path) -> LocalModel:
    local = locate(ModelRef.parse(str(path)), ())
    assert local is not None
    return local


def begun(path: Path, engine_start: EngineStart) -> Opening:
    start = Start(Settings(model=str(path), n_threads=1, n_parallel=1, n_ctx=256))
    return Opening(start, local_of(path), read_header(MODEL_PATH), ReadAhead(start), engine_start, None)


def test_a_file_that_is_gone_before_its_vocabulary_is_read_ends_the_start(tmp_path: Path) -> None:
    path = Path(shutil.copy(MODEL_PATH, tmp_path / "gone.gguf"))
    opening = begun(path, EngineStart())
    path.unlink()
    with pytest.raises(FileNotFoundError):
        opening.begin_vocabulary()
    opening.close()


class SlowStart(EngineStart):
    """A load that goes on until it is cancelled."""

    def load(
        self,
        command: Load,
        fd: int | None,
        progress: Callable[[float], bool],
        opened: Callable[[], None],
    ) -> ModelLoaded:
        while progress(0.5):
            pass
        raise ModelInvalid("The load was cancelled.")

    def open(self, command: OpenContext) -> ContextOpened:
        raise AssertionError("a model without its vocabulary was opened")


def test_a_vocabulary_that_cannot_be_loaded_ends_the_load_of_the_weights(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(MODEL_PATH.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.sergem", 1))
    opening = begun(damaged, SlowStart())
    plan = plan_for(read_header(MODEL_PATH), Machine(2, 4 << 30), Settings(n_ctx=256, n_parallel=1))
    opening.begin_vocabulary()
    with pytest.raises(ModelInvalid, match=r"The vocabulary of damaged\.gguf could not be loaded"):
        opening.load(plan)
    with pytest.raises(ModelInvalid, match=r"The vocabulary of damaged\.gguf could not be loaded"):
        opening.open(Weights(ModelLoaded(1, 1, None, 0)), plan)
    opening.close()


def test_the_token_before_the_first_one_is_that_of_the_file_or_0(tmp_path: Path) -> None:
    def bos(key: bytes) -> int:
        path = tmp_path / "model.gguf"
        path.write_bytes(MODEL_PATH.read_bytes().replace(b"tokenizer.ggml.bos_token_id", key, 1))
        start = Start(Settings(model=str(path)))
        opening = Opening(start, local_of(path), read_header(path), ReadAhead(start), EngineStart(), None)
        plan = plan_for(read_header(path), Machine(2, 4 << 30), start.settings)
        return opening._context_command(plan).bos

    assert bos(b"tokenizer.ggml.bos_token_id") == read_header(MODEL_PATH).bos_id
    assert bos(b"tokenizer.ggml.bos_token_no") == 11  # llama.cpp's own for this kind of vocabulary
