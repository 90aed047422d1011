"""Tests of what a header says of a model's MTP layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests import shapes
from tests.mtp_models import write_mtp
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.gguf import read_header
from worker_gguf.gguf.mtp import has_mtp_layer, n_left_out

GLM = shapes.SHAPES["GLM-4.5-Air"]


def test_glm_has_one(tmp_path: Path) -> None:
    header = read_header(shapes.write(GLM, tmp_path / "glm.gguf"))
    assert has_mtp_layer(header)
    assert n_left_out(header) == 1


def test_deepseek_has_one_unless_it_lacks_what_the_graph_needs(tmp_path: Path) -> None:
    assert has_mtp_layer(read_header(write_mtp(tmp_path / "mtp.gguf", architecture="deepseek2")))
    lite = shapes.SHAPES["DeepSeek-V2-Lite"]
    header = read_header(shapes.write(replace(lite, more={**lite.more, "nextn_predict_layers": 1}), tmp_path / "lite"))
    assert not has_mtp_layer(header)


def test_most_models_have_none() -> None:
    header = read_header(MODEL_PATH)
    assert not has_mtp_layer(header)
    assert n_left_out(header) == 0


def test_a_layer_that_is_named_but_not_in_the_file_guesses_nothing(tmp_path: Path) -> None:
    header = read_header(write_mtp(tmp_path / "mtp.gguf", with_layer=False))
    assert not has_mtp_layer(header)
    assert n_left_out(header) == 1


@pytest.mark.parametrize(
    "more",
    [{"rope.dimension_sections": [8, 12, 12, 0]}, {"nextn_predict_layers": 2}, {"attention.temperature_scale": 0.1}],
)
def test_what_llama_cpp_cannot_compute_guesses_nothing(more: dict[str, shapes.Value], tmp_path: Path) -> None:
    header = read_header(shapes.write(replace(GLM, more={**GLM.more, **more}), tmp_path / "glm.gguf"))
    assert not has_mtp_layer(header)


def test_extra_layers_of_a_kind_that_llama_cpp_loads_anyway_are_not_left_out(tmp_path: Path) -> None:
    shape = replace(shapes.SHAPES["Qwen3-4B"], more={"nextn_predict_layers": 1})
    assert n_left_out(read_header(shapes.write(shape, tmp_path / "model.gguf"))) == 0
