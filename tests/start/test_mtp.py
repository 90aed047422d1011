"""Tests of a start with a model that has an MTP layer: it is loaded and planned, or left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mtp_models import write_mtp
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.start import Start


def loaded(path: Path, **own: object) -> LoadedModel:
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 2, "n_ctx": 256, **own}
    return boot(Start(Settings(model=str(path), **values)), None)  # type: ignore[arg-type]


def test_the_plan_counts_the_layer_and_health_and_log_show_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        model = loaded(write_mtp(tmp_path / "mtp.gguf"), speculation="mtp")
    model.stop()
    plan = model.describe()["plan"]
    assert plan["has_mtp"]
    assert plan["mtp_bytes"] > 100_000
    (line,) = (record for record in caplog.records if record.getMessage() == "MTP layer planned")
    assert vars(line)["memory"].endswith(" MiB")


@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_the_layer_is_left_out_unless_it_is_asked_for(tmp_path: Path, speculation: str) -> None:
    model = loaded(write_mtp(tmp_path / "mtp.gguf"), speculation=speculation)
    model.stop()
    assert not model.plan.has_mtp


def test_a_file_without_the_layer_that_its_header_names_is_served_and_the_log_says_why_it_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        model = loaded(write_mtp(tmp_path / "mtp.gguf", with_layer=False), speculation="mtp")
    model.stop()
    assert not model.plan.has_mtp
    (line,) = (record for record in caplog.records if record.getMessage() == "MTP layer left out")
    assert "the file has no MTP layer" in vars(line)["reason"]
