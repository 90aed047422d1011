"""Tests of a start with DRAFT_MODEL: both models are loaded, and a pair that cannot work is refused by its names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.similar_models import write_with_more_tokens, write_with_other_eos, write_with_other_text
from tests.tiny_models import write_attention, write_encoder, write_recurrent, write_sliding_window
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid, ModelNotFound, WorkerError
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.start import Start


def loaded_with(draft: Path | str, model: Path | str = "embedded", **own: object) -> LoadedModel:
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 2, "n_ctx": 256}
    settings = Settings(model=str(model), draft_model=str(draft), **{**values, **own})  # type: ignore[arg-type]
    return boot(Start(settings), None)


def refusal(draft: Path, model: Path | str = "embedded", error: type[WorkerError] = ModelInvalid, **own: object) -> str:
    with pytest.raises(error) as refused:
        loaded_with(draft, model, **own).stop()
    return refused.value.message


def test_the_plan_counts_the_draft_model_and_health_shows_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draft = shutil.copy(MODEL_PATH, tmp_path / "draft.gguf")
    with caplog.at_level("INFO"):
        loaded = loaded_with(draft)
    loaded.stop()
    plan = loaded.describe()["plan"]["draft"]
    assert (plan["gpu"], plan["n_parallel"], plan["n_ctx"]) == (None, 2, 256)
    (main,) = plan["devices"]
    assert main["weights_bytes"] > 4_000_000
    assert main["kv_bytes"] == loaded.plan.kv_bytes
    (line,) = (record for record in caplog.records if record.getMessage() == "draft model planned")
    assert vars(line)["memory"].endswith("on main memory")


def test_the_phases_of_the_draft_model_are_in_the_timeline(tmp_path: Path) -> None:
    draft = shutil.copy(MODEL_PATH, tmp_path / "draft.gguf")
    start = Start(Settings(draft_model=str(draft), n_threads=1, n_parallel=1, n_ctx=256))
    boot(start, None).stop()
    assert {"fetch draft", "draft prefetch", "draft load"} <= start.timeline.seconds().keys()


def refusal_by_header(draft: Path) -> str:
    """Return the refusal of a draft model that comes before either model is loaded."""
    start = Start(Settings(draft_model=str(draft), n_threads=1, n_parallel=1, n_ctx=256))
    with pytest.raises(ModelInvalid) as refused:
        boot(start, None).stop()
    assert "header" in start.timeline.seconds()
    assert start.timeline.seconds().keys().isdisjoint({"plan", "load", "draft load", "vocabulary"})
    return refused.value.message


def test_another_text_of_a_token_is_refused_with_both_names_before_a_load(tmp_path: Path) -> None:
    assert refusal_by_header(write_with_other_text(tmp_path / "other.gguf")) == (
        "other.gguf cannot draft for model.gguf: token 1023 is '<|walrus_tag|>' in the draft model and "
        "'<|python_tag|>' in the model. Set DRAFT_MODEL to a model of the same family."
    )


def test_other_special_tokens_are_refused_before_a_load(tmp_path: Path) -> None:
    message = refusal_by_header(write_with_other_eos(tmp_path / "eos.gguf"))
    assert "EOS is token 1021 in the draft model and token 1022 in the model" in message


def test_another_number_of_tokens_is_refused_before_a_load(tmp_path: Path) -> None:
    other = write_with_more_tokens(tmp_path / "other.gguf", 130)
    assert "the draft model has 1154 tokens and the model 1024" in refusal_by_header(other)


def test_another_vocabulary_is_refused_before_a_load(tmp_path: Path) -> None:
    assert "BOS is token 256" in refusal_by_header(write_sliding_window(tmp_path / "window.gguf"))


def test_another_type_of_vocabulary_is_refused_before_a_load(tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(MODEL_PATH.read_bytes().replace(b"\4\0\0\0\0\0\0\0gpt2", b"\4\0\0\0\0\0\0\0bert", 1))
    assert "it has a WordPiece vocabulary and the model a BPE one" in refusal_by_header(other)


def test_a_special_token_that_only_one_file_names_is_compared_with_the_default_of_the_other(tmp_path: Path) -> None:
    unnamed = tmp_path / "unnamed.gguf"
    unnamed.write_bytes(MODEL_PATH.read_bytes().replace(b"tokenizer.ggml.eos_token_id", b"tokenizer.ggml.eos_token_no"))
    assert "EOS is token 11 in the draft model and token 1022 in the model" in refusal_by_header(unnamed)


def test_a_recurrent_model_is_refused_in_either_place(tmp_path: Path) -> None:
    recurrent = write_recurrent(tmp_path / "recurrent.gguf")
    other = write_attention(tmp_path / "other.gguf")
    assert refusal(recurrent, other).startswith("recurrent.gguf cannot draft for other.gguf: recurrent.gguf has a")
    assert refusal(other, recurrent).startswith("other.gguf cannot draft for recurrent.gguf: recurrent.gguf has a")


def test_a_memory_that_keeps_only_its_window_is_refused(tmp_path: Path) -> None:
    window = write_sliding_window(tmp_path / "window.gguf")
    assert "SWA_FULL=false" in refusal(window, window, swa_full=False)
    loaded_with(window, window).stop()


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder.gguf")
    assert refusal(encoder) == "encoder.gguf cannot draft for model.gguf: it does not generate text. Unset DRAFT_MODEL."


def test_a_missing_draft_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    assert "nowhere.gguf" in refusal(tmp_path / "nowhere.gguf", error=ModelNotFound)
