"""Tests of models with LoRA adapters of their own in one worker: the embedded model three times."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench import adapters as writer
from tests import asking
from tests.fleet.asking import ask, states
from tests.fleet.conftest import several
from tests.tiny_models import write_attention, write_encoder
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import InvalidRequest, ModelInvalid, ModelNotFound, NotFound, NotReady
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.fleet.model import FleetModel
from worker_gguf.fleet.roster import read_roster
from worker_gguf.observe.metrics import Metrics
from worker_gguf.service.request import Answer
from worker_gguf.settings import Settings
from worker_gguf.store.cache import Cache
from worker_gguf.store.tuning import Tuning
from worker_gguf.store.usage_marks import used_paths
from worker_gguf.worker import Worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """`a` and `b` have different adapters of the name `sql`; that of `wrong` is for another model."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("a-sql", "style", "b-sql")):
        writer.write(folder / f"{name}.gguf", MODEL_PATH, seed=seed)
    writer.write(folder / "foreign.gguf", write_attention(folder / "attention.gguf"))
    write_encoder(folder / "encoder.gguf")
    models = [
        {"alias": "a", "model": "embedded", "lora": f"sql={folder / 'a-sql.gguf'}, {folder / 'style.gguf'}:0.5"},
        {"alias": "b", "model": str(folder / "other.gguf"), "lora": [f"sql={folder / 'b-sql.gguf'}"]},
        {"alias": "wrong", "model": str(folder / "other.gguf"), "lora": [f"odd={folder / 'foreign.gguf'}"]},
        {"alias": "encoder", "model": str(folder / "encoder.gguf"), "lora": [f"sql={folder / 'b-sql.gguf'}"]},
        {"alias": "absent", "model": str(folder / "other.gguf"), "lora": [f"sql={folder / 'none.gguf'}"]},
    ]
    made = Worker(several(folder, models=json.dumps(models)), Metrics("test"))
    made.start()
    asyncio.run(made.wait_ready())
    yield made
    made.stop()


def fleet_of(worker: Worker) -> Fleet:
    assert isinstance(worker._host, Fleet)
    return worker._host


async def text(worker: Worker, model: str | None, **fields: Any) -> tuple[str, str]:
    answer = await ask(worker, model, max_tokens=12, **fields)
    content: str = answer["choices"][0]["message"]["content"]
    return answer["model"], content


async def test_a_request_is_computed_with_the_adapter_of_the_model_that_it_names(worker: Worker) -> None:
    plain = await text(worker, None)
    of_a, of_b = await text(worker, "a:sql"), await text(worker, "b:sql")
    assert [answer[0] for answer in (plain, of_a, of_b)] == ["a", "a:sql", "b:sql"]
    assert len({plain[1], of_a[1], of_b[1]}) == 3
    assert await text(worker, "b", lora="sql") == ("b", of_b[1])
    assert await text(worker, "b") == ("b", plain[1])
    assert await text(worker, "style") == ("a:style", (await text(worker, "a", lora=[{"id": 1}]))[1])


async def test_a_name_that_two_models_have_is_that_of_the_first(worker: Worker) -> None:
    assert (await text(worker, "sql"))[0] == "a:sql"


async def test_a_name_or_an_adapter_that_the_model_does_not_have_loads_nothing(worker: Worker) -> None:
    await ask(worker, "a")
    before = fleet_of(worker).describe()["unloads"]
    with pytest.raises(NotFound, match="serves 'a', 'a:sql', 'a:style', 'b', 'b:sql'"):
        await ask(worker, "b:style")
    with pytest.raises(InvalidRequest, match="is no adapter of the model 'b', which has 'sql'"):
        await ask(worker, "b", lora="style")
    assert fleet_of(worker).describe()["unloads"] == before
    assert (await states(worker))["a"] == "loaded"


async def test_each_adapter_is_listed_with_the_state_of_its_model(worker: Worker) -> None:
    await ask(worker, "a")
    listed = await states(worker)
    assert [listed[name] for name in ("a", "a:sql", "a:style")] == ["loaded"] * 3
    assert [listed[name] for name in ("b", "b:sql")] == ["unloaded"] * 2
    answer = await asking.ask(worker, "GET", "/v1/models/b:sql")
    assert isinstance(answer, Answer)
    assert (answer.body["id"], answer.body["parent"], answer.body["status"]) == ("b:sql", "b", {"value": "unloaded"})
    for query, names in ({}, ["sql", "style"]), ({"model": "b:sql"}, ["sql"]):
        request = replace(asking.request("GET", "/lora-adapters", None), query=query)
        answer = await worker.answer(request)
        assert isinstance(answer, Answer)
        assert [adapter["name"] for adapter in answer.body] == names


async def test_the_adapters_count_for_the_room_of_their_model(worker: Worker) -> None:
    await text(worker, "b")
    models = fleet_of(worker).models
    sizes = []
    for name in "a", "b":
        found = models[name].found
        assert found is not None
        sizes.append(found.need.shape.weights_bytes)
    n_bytes = [adapter.size_bytes for adapter in models["a"].card.adapters]
    assert all(n_bytes)
    assert 0 < sizes[0] - sizes[1] <= (n_bytes[1] or 0)  # one adapter more, and the header of its file


async def test_an_adapter_of_another_model_fails_only_its_own_model(worker: Worker) -> None:
    fleet = fleet_of(worker)
    before = fleet.describe()["unloads"]
    with pytest.raises(ModelInvalid, match=r"The adapter odd of LORA cannot be used with other\.gguf"):
        await ask(worker, "wrong")
    with pytest.raises(NotReady, match="The adapter odd of LORA"):
        await ask(worker, "wrong")
    assert fleet.describe()["unloads"] == before  # it is seen before a model makes room
    assert (await states(worker))["wrong:odd"] == "failed"
    assert (await text(worker, "b:sql"))[0] == "b:sql"


async def test_a_model_whose_adapter_is_not_there_fails_alone(worker: Worker) -> None:
    with pytest.raises(ModelNotFound, match="'absent' could not be brought up"):  # the reason has a path
        await ask(worker, "absent")
    assert (await text(worker, "b:sql"))[0] == "b:sql"


def test_the_files_of_adapters_are_protected_from_pruning_as_long_as_the_model_is_known(tmp_path: Path) -> None:
    adapter = writer.write(tmp_path / "sql.gguf", MODEL_PATH)
    models = json.dumps([{"alias": "a", "model": "embedded", "lora": [str(adapter)]}])
    (entry,) = read_roster(Settings(models=models, model_cache_dir=tmp_path))
    model = FleetModel(entry, lambda: True, 1)

    def used() -> set[Path]:
        return used_paths(Cache(tmp_path), Tuning())

    model.find()
    assert used() == {adapter.resolve()}
    model.shut_down()
    assert used() == set()


async def test_a_model_that_pools_has_no_adapters(worker: Worker) -> None:
    with pytest.raises(ModelInvalid, match="LORA cannot be used with encoder"):
        await asking.ask(worker, "POST", "/v1/embeddings", {"model": "encoder", "input": "x"})


def test_a_first_model_with_a_wrong_adapter_fails_the_start(tmp_path: Path) -> None:
    adapter = writer.write(tmp_path / "odd.gguf", write_attention(tmp_path / "attention.gguf"))
    models = json.dumps([{"alias": "a", "model": "embedded", "lora": str(adapter)}, "b=embedded"])
    failing = Worker(several(tmp_path, models=models), Metrics("test"))
    failing.start()
    with pytest.raises(ModelInvalid, match="The adapter odd of LORA"):
        asyncio.run(failing.wait_ready())
    failing.stop()
