"""Tests of a start with a projector: found beside the model, planned, loaded, and refused where it does not fit."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import projectors
from tests.image_files import png
from tests.llama.test_images import answer, request_of
from tests.tiny_models import write_attention, write_multi_rope, write_sliding_window
from tests.waiting import wait_until
from worker_gguf.errors import ModelInvalid, ModelNotFound
from worker_gguf.generation.events import Finished
from worker_gguf.gguf import read_header
from worker_gguf.link.process import EngineProcess
from worker_gguf.plan import MemoryPlan
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.projector import ProjectorModel
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel

WIDTH = 32


def loaded(path: Path, **own: object) -> LoadedModel:
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 2, "n_ctx": 256, **own}
    return boot(Start(Settings(model=str(path), **values)), None)  # type: ignore[arg-type]


def written(folder: Path, kind: str = "mlp", n_out: int = WIDTH, name: str = "mmproj-F16.gguf") -> Path:
    return projectors.write(folder / name, projectors.Projector(kind, n_out, n_embd=64))


def loaded_plan(path: Path) -> MemoryPlan:
    model = loaded(path)
    model.stop()
    return model.plan


def asked(model: LoadedModel, name: str = "request") -> tuple[list[int], Finished]:
    return asyncio.run(answer(model.engine, request_of(name, [[70, 71], png(1), [80]])))


def test_a_projector_beside_the_model_is_loaded_and_images_are_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_attention(tmp_path / "tiny-Q8_0.gguf")
    written(tmp_path)
    with caplog.at_level("INFO"):
        model = loaded(path)
    tokens, ending = asked(model)
    health = model.describe()
    model.stop()
    assert len(tokens) == 16
    # BOS, the texts, and 16 rows.
    assert ending.usage.prompt_tokens == 1 + 3 + 16
    assert "vision" in health["model"]["capabilities"]
    assert health["plan"]["projector"]["gpu"] is None
    assert {"projector planned"} <= {record.getMessage() for record in caplog.records}


@pytest.mark.parametrize(
    ("gpu", "n_gpu_layers", "takes_turns"), [(None, 0, True), (None, 1, False), (0, 0, False), (0, 1, False)]
)
def test_images_are_encoded_in_turn_with_steps_where_both_are_on_the_processor(
    tmp_path: Path, gpu: int | None, n_gpu_layers: int, takes_turns: bool
) -> None:
    path, mmproj = write_attention(tmp_path / "tiny.gguf"), written(tmp_path)
    plan = loaded_plan(path)
    assert plan.projector is not None
    plan = replace(plan, projector=replace(plan.projector, gpu=gpu), n_gpu_layers=n_gpu_layers)
    projector = ProjectorModel(
        LocalModel((mmproj,), mmproj.stat().st_size, None, None, "path"), read_header(mmproj), is_required=True
    )
    assert projector.command(Settings(), plan).takes_turns == takes_turns


def test_the_phases_of_a_projector_are_in_the_timeline(tmp_path: Path) -> None:
    written(tmp_path)
    start = Start(Settings(model=str(write_attention(tmp_path / "a.gguf")), n_threads=1, n_parallel=1, n_ctx=256))
    boot(start, None).stop()
    assert {"projector header", "projector load"} <= start.timeline.seconds().keys()


def test_a_model_without_a_projector_has_no_phase_of_one_and_refuses_images(tmp_path: Path) -> None:
    start = Start(Settings(model=str(write_attention(tmp_path / "a.gguf")), n_threads=1, n_parallel=1, n_ctx=256))
    model = boot(start, None)
    _, ending = asked(model)
    model.stop()
    assert not [name for name in start.timeline.seconds() if "projector" in name]
    assert ending.error is not None
    assert "no projector is loaded" in ending.error.message
    assert "vision" not in model.service.card.capabilities


def test_mmproj_none_leaves_it_out(tmp_path: Path) -> None:
    written(tmp_path)
    model = loaded(write_attention(tmp_path / "a.gguf"), mmproj="none")
    model.stop()
    assert model.plan.projector is None


def test_a_projector_of_another_model_is_left_out_with_the_reason_or_refused_if_it_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_attention(tmp_path / "a.gguf")
    other = written(tmp_path, n_out=48)
    model = loaded(path)
    model.stop()
    assert model.plan.projector is None
    (line,) = (record for record in caplog.records if record.getMessage() == "projector left out")
    assert "belongs to another model" in vars(line)["reason"]
    with pytest.raises(ModelInvalid, match=r"mmproj-F16.gguf cannot be used as the projector .* 32 numbers"):
        loaded(path, mmproj=str(other))
    with pytest.raises(ModelNotFound):
        loaded(path, mmproj=str(tmp_path / "none.gguf"))
    with pytest.raises(ModelInvalid, match="it is no projector"):
        loaded(path, mmproj=str(path))


@pytest.mark.parametrize(
    ("kind", "write"), [("gemma3", write_sliding_window), ("qwen2vl_merger", write_multi_rope)], ids=["gemma", "qwen"]
)
def test_a_projector_in_another_folder_can_be_named(tmp_path: Path, kind: str, write: object) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = write(tmp_path / "a.gguf")  # type: ignore[operator]
    model = loaded(path, mmproj=str(written(folder, kind, name="any.gguf")))
    tokens, _ = asked(model)
    model.stop()
    assert len(tokens) == 16


def test_after_the_death_of_the_engine_process_images_are_answered_again(tmp_path: Path) -> None:
    written(tmp_path)
    model = loaded(write_attention(tmp_path / "a.gguf"))
    first, _ = asked(model)
    link = model.engine._link
    assert isinstance(link, EngineProcess)
    link.kill()
    wait_until(lambda: model.engine.n_deaths == 1 and model.engine.is_running)
    assert asked(model, "again")[0] == first
    model.stop()
