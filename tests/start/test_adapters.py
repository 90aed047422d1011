"""Tests of a start with LORA: the adapters are loaded and planned, and one that cannot work is refused by its name."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from bench import adapters as writer
from tests.tiny_models import write_attention, write_encoder, write_recurrent
from tests.waiting import wait_until
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.adapters import AdapterSet
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.errors import ModelInvalid, ModelNotFound, WorkerError
from worker_gguf.generation.events import Delta, Finished
from worker_gguf.gguf import read_header
from worker_gguf.settings import Settings
from worker_gguf.start.boot import boot
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.start import Start


def started(lora: str, model: Path | str = MODEL_PATH, **own: object) -> Start:
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 4, "n_ctx": 256, "model": str(model), "lora": lora}
    # So that the order of sums, which other requests change, decides no token.
    values |= {"flash_attn": "off", "type_k": "f32", "type_v": "f32"}
    return Start(Settings(**{**values, **own}))  # type: ignore[arg-type]


def refusal(lora: str, error: type[WorkerError] = ModelInvalid, **own: object) -> str:
    with pytest.raises(error) as refused:
        boot(started(lora, **own), None).stop()  # type: ignore[arg-type]
    return refused.value.message


@pytest.fixture
def two(tmp_path: Path) -> str:
    paths = [writer.write(tmp_path / f"{name}.gguf", MODEL_PATH, seed=seed, gain=0.5) for seed, name in enumerate("ab")]
    return f"first={paths[0]}, {paths[1]}:0.5"


def test_the_adapters_are_in_the_timeline_the_plan_the_checks_and_in_health(two: str) -> None:
    start = started(two)
    loaded, plain = boot(start, None), boot(started(""), None)
    loaded.stop()
    plain.stop()
    wanted = {"fetch adapter first", "fetch adapter b", "adapter prefetch", "adapter headers", "adapter first"}
    assert wanted | {"adapter b"} <= start.timeline.seconds().keys()
    sizes = [adapter.header.weights_bytes for adapter in loaded.adapters.all]
    assert loaded.plan.weights_bytes == plain.plan.weights_bytes + sum(sizes)
    assert [check.name for check in loaded.checks if check.name.startswith("adapter")] == ["adapter_first", "adapter_b"]
    shown = loaded.describe()["adapters"]
    assert [(adapter["name"], adapter["scale"]) for adapter in shown] == [("first", 1.0), ("b", 0.5)]
    assert plain.describe()["adapters"] == []
    assert (loaded.engine.limits.n_adapters, plain.engine.limits.n_adapters) == (2, 0)


def test_without_a_prefetch_the_adapters_are_loaded_by_their_paths(two: str) -> None:
    loaded = boot(started(two, prefetch="off"), None)
    loaded.stop()
    assert loaded.engine.limits.n_adapters == 2


def answers(loaded: LoadedModel, *sets: AdapterSet, n: int = 20) -> list[tuple[int, ...]]:
    """Ask at once for a greedy answer with each set."""

    async def ask() -> list[tuple[int, ...]]:
        prompt = tuple(loaded.vocabulary.tokenize("Tell me a long story.", add_special=True, parse_special=True))
        sampling = SamplingParams(temperature=0.0, ignore_eos=True)
        asked = [GenerationRequest(f"r{i}", prompt, sampling, n, adapters=found) for i, found in enumerate(sets)]
        found: list[list[int]] = [[] for _ in asked]
        async for items in loaded.engine.submit(*asked):
            for index, events in items.items():
                for event in events:
                    if isinstance(event, Delta):
                        found[index] += event.tokens
                    elif isinstance(event, Finished):
                        assert event.error is None
        return [tuple(tokens) for tokens in found]

    return asyncio.run(ask())


def test_requests_get_the_answers_of_their_adapters_and_those_without_get_those_of_the_model(two: str) -> None:
    loaded, plain = boot(started(two), None), boot(started(""), None)
    sets: list[AdapterSet] = [(), ((0, 1.0),), ((1, 1.0),), ((0, 1.0), (1, 0.5))]
    together = answers(loaded, *sets)
    alone = [answers(loaded, adapters)[0] for adapters in sets]
    (without,) = answers(plain, ())
    loaded.stop()
    plain.stop()
    assert together == alone
    assert together[0] == without
    assert len(set(together)) == 4


def test_a_process_that_takes_the_place_of_one_that_died_has_the_adapters(two: str) -> None:
    loaded = boot(started(two), None)
    before = answers(loaded, ((0, 1.0),), ((1, 1.0),))
    link = loaded.engine._link
    os.kill(link.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    wait_until(lambda: loaded.engine.n_deaths == 1 and loaded.engine.state == "running")
    assert loaded.engine._link is not link
    assert answers(loaded, ((0, 1.0),), ((1, 1.0),)) == before
    loaded.stop()


def test_an_adapter_of_another_model_is_refused_before_a_load(tmp_path: Path) -> None:
    adapter = writer.write(tmp_path / "style.gguf", write_attention(tmp_path / "other.gguf"))
    start = started(str(adapter))
    with pytest.raises(ModelInvalid) as refused:
        boot(start, None).stop()
    assert refused.value.message == (
        "The adapter style of LORA cannot be used with model.gguf: style.gguf changes 'blk.0.attn_q.weight' in another "
        "shape than the model has: it is for another model. Take an adapter that was trained for this model, or remove "
        "it from LORA."
    )
    assert start.timeline.seconds().keys().isdisjoint({"plan", "load"})


def test_an_activated_adapter_is_refused_by_its_name(tmp_path: Path) -> None:
    metadata = {"adapter.alora.invocation_tokens": np.array([1, 2], np.int32)}
    adapter = writer.write(tmp_path / "style.gguf", MODEL_PATH, metadata=metadata)
    assert "The adapter style of LORA cannot be used with model.gguf: style.gguf is an activated LoRA" in refusal(
        str(adapter)
    )


def test_a_missing_file_is_an_error_that_names_the_adapter(tmp_path: Path) -> None:
    message = refusal(f"style={tmp_path}/nowhere.gguf", ModelNotFound)
    assert message.startswith(f"The adapter style of LORA: No model file exists at {tmp_path}/nowhere.gguf.")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    adapter = writer.write(tmp_path / "style.gguf", MODEL_PATH)
    adapter.write_bytes(adapter.read_bytes()[:-1000])
    message = refusal(str(adapter))
    assert "style.gguf" in message
    assert "cut short" in message


def test_an_adapter_with_which_no_finite_number_is_computed_is_refused_by_its_name(two: str, tmp_path: Path) -> None:
    broken = writer.write(tmp_path / "broken.gguf", MODEL_PATH, gain=float("inf"))
    message = refusal(f"{two},{broken}")
    assert message.startswith("The model computes no finite numbers with the adapter broken of LORA in the scale 1.")


def test_a_model_that_generates_no_text_takes_no_adapter(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder.gguf")
    message = refusal(str(writer.write(tmp_path / "a.gguf", encoder)), model=encoder)
    assert message == "LORA cannot be used with encoder.gguf, which generates no text here. Unset LORA."


def test_a_model_that_pools_by_its_setting_takes_no_adapter(two: str) -> None:
    assert "which generates no text here" in refusal(two, pooling="last")


def test_vectors_of_norms_that_are_left_out_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = writer.write(tmp_path / "style.gguf", MODEL_PATH, norms=True)
    with caplog.at_level("WARNING"):
        boot(started(str(adapter)), None).stop()
    (line,) = (record for record in caplog.records if record.getMessage() == "adapter not applied in full")
    n_layers = read_header(MODEL_PATH).n_layers
    assert vars(line)["reason"] == f"style.gguf has {n_layers} vectors of norms, which llama.cpp leaves out"


def test_matrices_that_llama_cpp_does_not_apply_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = write_recurrent(tmp_path / "model.gguf")
    # The convolution of a recurrent layer is no product with a matrix.
    some = writer.write(tmp_path / "some.gguf", base, matrices=r"blk\.\d\.ssm_(?:in|conv1d)\.weight", gain=0.1)
    all_ = writer.write(tmp_path / "all.gguf", base, matrices=r"blk\.\d\.ssm_in\.weight", gain=0.1)
    with caplog.at_level("WARNING"):
        boot(started(f"{some},{all_}", base), None).stop()
    (line,) = (record for record in caplog.records if record.getMessage() == "adapter not applied in full")
    assert vars(line)["adapter"] == "some"
    assert vars(line)["reason"] == "llama.cpp applies 2 of the 4 matrices that it changes in this model"


def test_sha256_of_the_adapters_is_verified_too(two: str) -> None:
    loaded = boot(started(two, verify_model="sha256"), None)
    loaded.stop()
    reasons = {check.name: check.reason for check in loaded.checks}
    assert "the cache has no SHA-256 of it" in reasons["adapter_first"]
