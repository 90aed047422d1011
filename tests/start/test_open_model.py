"""Tests of opening a model."""

from __future__ import annotations

import ast
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.link.messages import ContextOpened, OpenContext
from worker_gguf.plan import Machine
from worker_gguf.settings import Settings
from worker_gguf.start import open_model as module
from worker_gguf.start import opening
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.open_model import LATE_IMPORTS, open_model
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import ModelRef, UsageMark
from worker_gguf.store.resolve import locate


def halved(machine: Machine) -> Machine:
    return replace(machine, free_bytes=machine.free_bytes // 2)


def opened(path: Path, **own: object) -> LoadedModel:
    values = {"model": str(path), "n_threads": 1, "n_parallel": 1, "n_ctx": 256} | own
    start = Start(Settings(**{name: value for name, value in values.items() if value is not None}))  # type: ignore[arg-type]
    local = locate(ModelRef.parse(str(path)), ())
    assert local is not None
    with ReadAhead(start) as ahead:
        return open_model(
            start, local, UsageMark(local.paths, start.settings.cache_dir()), ahead, EngineStart(), left_of=halved
        )


def test_a_loaded_model_has_the_whole_machine_and_not_the_part_that_others_leave() -> None:
    loaded = opened(MODEL_PATH)
    loaded.stop()
    assert loaded.plan.devices[-1].room_bytes <= loaded.machine.free_bytes // 2


def test_the_late_imports_are_those_of_the_module() -> None:
    trees = [ast.parse(Path(found.__file__ or "").read_text()) for found in (module, opening)]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {node.module for function in functions for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
    assert found == set(LATE_IMPORTS)


def test_an_engine_process_that_dies_while_it_opens_the_context_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The system ends the process like this if main memory is used up."""
    real, pids = EngineStart.open, []

    def killed_at_first(self: EngineStart, command: OpenContext) -> ContextOpened:
        pids.append(self.begin().pid)
        if len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)
        return real(self, command)

    monkeypatch.setattr(EngineStart, "open", killed_at_first)
    loaded = opened(MODEL_PATH, n_parallel=None)
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


def test_an_encoder_loads_and_draws_no_token(tmp_path: Path) -> None:
    loaded = opened(write_encoder(tmp_path / "encoder.gguf"))
    loaded.stop()
    assert loaded.describe()["model"]["capabilities"] == ["embedding"]
    (token,) = (check for check in loaded.checks if check.name == "token")
    assert (token.ok, token.reason) == (True, "none drawn: the model does not generate text")


def test_a_reranker_loads(tmp_path: Path) -> None:
    loaded = opened(write_reranker(tmp_path / "reranker.gguf"))
    loaded.stop()
    assert loaded.service.card.capabilities == ("rerank",)
