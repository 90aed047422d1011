"""Tests of listed models with projectors: how one is found, counted, protected from pruning, and left out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import adapters, projectors
from tests.fake_hub import FakeHub, FakeRepo
from tests.fleet.asking import ask
from tests.fleet.conftest import several
from tests.image_files import data_url, png
from tests.tiny_models import write_attention, write_encoder
from worker_gguf.errors import ModelInvalid, ModelNotFound, SettingsError, UnsupportedParameter
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.fleet.model import FleetModel, Found
from worker_gguf.fleet.roster import read_roster
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.store.cache import Cache
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.usage_marks import used_paths
from worker_gguf.worker import Worker

WIDTH = 32
REPO = "acme/seeing-GGUF"


def written(path: Path, n_out: int = WIDTH) -> Path:
    path.parent.mkdir(exist_ok=True)
    return projectors.write(path, projectors.Projector("mlp", n_out, n_embd=64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sees.gguf` has a projector beside it, and `blind/tiny.gguf` has none."""
    made = tmp_path_factory.mktemp("models")
    write_attention(made / "sees.gguf")
    written(made / "mmproj-F16.gguf")
    (made / "blind").mkdir()
    write_attention(made / "blind" / "tiny.gguf")
    return made


def listed(model: Path | str, cache: Path | None = None, mmproj_of_all: str = "auto", **own: Any) -> FleetModel:
    models = json.dumps([{"alias": "m", "model": str(model), **own}])
    (entry,) = read_roster(Settings(models=models, model_cache_dir=cache, mmproj=mmproj_of_all))
    return FleetModel(entry, lambda: True, 1)


def looked(model: FleetModel) -> Found | None:
    """Look for the model as the fleet does at its start, and let go of its files."""
    model.look()
    model.shut_down()
    return model.found


def sees(model: FleetModel) -> bool:
    return "vision" in model.card.capabilities


def test_the_projector_beside_a_model_is_found_without_loading_it(folder: Path) -> None:
    model, blind = listed(folder / "sees.gguf"), listed(folder / "blind" / "tiny.gguf")
    found, found_blind = looked(model), looked(blind)
    assert found is not None
    assert found.projector is not None
    assert found.projector.local.path.name == "mmproj-F16.gguf"
    assert not found.projector.is_required
    assert sees(model)
    assert found_blind is not None
    assert found_blind.projector is None
    assert not sees(blind)


def test_an_entry_names_its_own_projector_or_none(folder: Path, tmp_path: Path) -> None:
    own = written(tmp_path / "own.gguf")
    named = listed(folder / "blind" / "tiny.gguf", mmproj=str(own))
    found = looked(named)
    assert found is not None
    assert found.projector is not None
    assert found.projector.local.path == own
    assert found.projector.is_required
    assert sees(named)
    without = listed(folder / "sees.gguf", mmproj="none")
    assert (found := looked(without)) is not None
    assert found.projector is None
    assert not sees(without)


@pytest.mark.parametrize("own", ["auto", "{folder}/mmproj-F16.gguf"])
def test_mmproj_none_turns_off_the_projectors_of_all_entries(folder: Path, own: str) -> None:
    model = listed(folder / "sees.gguf", mmproj_of_all="none", mmproj=own.format(folder=folder))
    assert (found := looked(model)) is not None
    assert found.projector is None
    assert not sees(model)


def test_the_projector_counts_for_the_room_of_its_model(folder: Path) -> None:
    found, without = looked(listed(folder / "sees.gguf")), looked(listed(folder / "sees.gguf", mmproj="none"))
    assert found is not None
    assert without is not None
    assert found.need.shape == without.need.shape
    assert without.need.projector is None
    assert found.need.projector is not None
    size_bytes = (folder / "mmproj-F16.gguf").stat().st_size
    assert 0 < found.need.projector.shape.weights_bytes <= size_bytes


def test_a_projector_of_another_model_is_left_out_or_refused_if_the_entry_names_it(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_attention(tmp_path / "tiny.gguf")
    other = written(tmp_path / "mmproj-F16.gguf", n_out=48)
    model = listed(path)
    assert (found := looked(model)) is not None
    assert found.projector is None
    assert not sees(model)
    (line,) = (record for record in caplog.records if record.getMessage() == "projector left out")
    assert "belongs to another model" in vars(line)["reason"]
    with pytest.raises(ModelInvalid, match="cannot be used as the projector"):
        listed(folder / "sees.gguf", mmproj=str(other)).find()
    with pytest.raises(ModelNotFound):
        listed(folder / "sees.gguf", mmproj=str(tmp_path / "none.gguf")).find()


def test_a_model_whose_own_projector_is_not_on_disk_is_not_found_yet(folder: Path, tmp_path: Path) -> None:
    model = listed(folder / "sees.gguf", mmproj="org/repo", cache=tmp_path)
    assert looked(model) is None
    assert not sees(model)


def test_a_model_that_pools_has_no_projector(tmp_path: Path) -> None:
    path = write_encoder(tmp_path / "encoder.gguf")
    beside = written(tmp_path / "mmproj-F16.gguf")
    model = listed(path)
    assert (found := looked(model)) is not None
    assert found.projector is None
    assert not sees(model)
    with pytest.raises(SettingsError, match="a model that pools takes texts"):
        listed(path, mmproj=str(beside)).find()


def test_the_files_of_a_projector_are_protected_from_pruning_as_long_as_the_model_is_known(tmp_path: Path) -> None:
    path, beside = write_attention(tmp_path / "tiny.gguf"), written(tmp_path / "mmproj-F16.gguf")
    (tmp_path / "lora").mkdir()
    adapter = adapters.write(tmp_path / "lora" / "sql.gguf", path)
    for lora, files in ([], {path, beside}), ([str(adapter)], {path, beside, adapter}):
        model = listed(path, cache=tmp_path, lora=lora)
        model.find()
        assert used_paths(Cache(tmp_path), Tuning()) == {file.resolve() for file in files}
        model.shut_down()
        assert used_paths(Cache(tmp_path), Tuning()) == set()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    files = write_attention(tmp_path / "tiny-Q4_K_M.gguf"), written(tmp_path / "mmproj-F16.gguf")
    with FakeHub() as made:
        made.repos[REPO] = FakeRepo()
        made.repos[REPO].push({file.name: file.read_bytes() for file in files})
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{made.url}{PATH_TEMPLATE}")
        yield made


PATH_TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


def test_a_projector_is_fetched_with_its_model_and_found_without_a_request_later(hub: FakeHub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = listed(f"{REPO}:Q4_K_M", cache=cache)
    assert not sees(model)
    found = model.find()
    assert found.projector is not None
    assert found.projector.local.path.name == "mmproj-F16.gguf"
    assert sees(model)
    used = used_paths(Cache(cache), Tuning())
    assert used == {found.local.path.resolve(), found.projector.local.path.resolve()}
    model.shut_down()
    n_asked = len(hub.requests)
    again = listed(f"{REPO}:Q4_K_M", cache=cache)
    assert (later := looked(again)) is not None
    assert later.projector is not None
    assert sees(again)
    assert len(hub.requests) == n_asked


def test_each_load_has_the_projector_and_its_file_is_checked_at_the_first_one_only(folder: Path) -> None:
    model = listed(folder / "sees.gguf", n_ctx=256, n_parallel=1, n_threads=1)
    checks = []
    for _ in range(2):
        model.open(lambda machine: machine, time.monotonic)
        loaded = model.detach()
        assert loaded is not None
        assert loaded.plan.projector is not None
        checks += [check for check in loaded.checks if check.name == "projector"]
        model.close(loaded)
    model.shut_down()
    assert checks[0] is checks[1]


async def test_the_first_model_keeps_its_projector_when_the_fleet_takes_it_over(folder: Path, tmp_path: Path) -> None:
    models = [{"alias": "a", "model": str(folder / "sees.gguf")}, {"alias": "b", "model": "embedded"}]
    worker = Worker(several(tmp_path, models=json.dumps(models), n_ctx=256), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    fleet = worker._host
    assert isinstance(fleet, Fleet)
    first = fleet.models["a"]
    loaded, found = first.loaded, first.found
    assert loaded is not None
    assert loaded.plan.projector is not None
    assert found is not None
    assert found.projector is not None
    assert found.need.projector is not None
    await ask(worker, "b")
    assert first.loaded is None
    assert sees(first)
    worker.stop()


async def test_a_model_that_is_known_not_to_see_is_not_loaded_for_an_image(folder: Path, tmp_path: Path) -> None:
    models = [{"alias": "a", "model": "embedded"}, {"alias": "blind", "model": str(folder / "blind" / "tiny.gguf")}]
    worker = Worker(several(tmp_path, models=json.dumps(models), n_ctx=256), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    fleet = worker._host
    assert isinstance(fleet, Fleet)
    await asyncio.to_thread(fleet.models["blind"].look)
    image = {"type": "image_url", "image_url": {"url": data_url(png(1))}}
    with pytest.raises(UnsupportedParameter, match="'blind' does not see images"):
        await ask(worker, "blind", messages=[{"role": "user", "content": [image]}])
    assert fleet.describe()["unloads"] == 0
    worker.stop()
