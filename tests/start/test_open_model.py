"""Tests of opening a model."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.embedded import MODEL_PATH
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


def opened(path: Path) -> LoadedModel:
    start = Start(Settings(model=str(path), n_threads=1, n_parallel=1, n_ctx=256))
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
