"""Tests of several models in one worker: the embedded model twice, with room for one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests import asking
from tests.fleet.asking import ask, generating, states
from tests.fleet.conftest import several
from tests.hanging import process_of
from tests.waiting import MOST_S
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelInvalid,
    NotFound,
    NotReady,
    QueueFull,
)
from worker_gguf.fleet.fleet import Fleet
from worker_gguf.fleet.model import FleetModel
from worker_gguf.observe.account import Account
from worker_gguf.observe.ending import line_of
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.fitness import checks_of
from worker_gguf.queue.handler import make_handler
from worker_gguf.service.request import Answer, Stream
from worker_gguf.store.verify import matches_record
from worker_gguf.worker import Worker


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


async def test_each_request_is_answered_by_the_model_it_names(worker: Worker) -> None:
    answers = await asyncio.gather(*(ask(worker, name) for name in "abababab"))
    assert [answer["model"] for answer in answers] == list("abababab")
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 1  # it is one model twice


async def test_without_a_name_the_first_answers_and_names_have_no_case(worker: Worker) -> None:
    assert (await ask(worker, None))["model"] == "a"
    assert (await ask(worker, "EMBEDDED"))["model"] == "a"
    assert (await ask(worker, "other.gguf"))["model"] == "b"


@pytest.mark.parametrize("path", ["/api/show", "/api/chat"])
async def test_what_has_no_effect_where_no_model_is_loaded_is_noted(worker: Worker, path: str) -> None:
    account = Account("http", "req_test")
    answer = await asking.ask(worker, "POST", path, {"model": "a", "keep_alive": 0}, account)
    assert answer.ignored == account.close(200).ignored == ("keep_alive",)


async def test_a_name_may_have_the_tag_of_ollama(worker: Worker) -> None:
    assert (await ask(worker, "b:latest"))["model"] == "b"
    assert (await ask(worker, "other.gguf:LATEST"))["model"] == "b"
    with pytest.raises(NotFound, match="'b:other'"):
        await ask(worker, "b:other")


async def test_a_request_without_a_prompt_loads_its_model_unless_it_gives_it_back(worker: Worker) -> None:
    async def done_reason(**body: object) -> str:
        answer = await asking.ask(worker, "POST", "/api/generate", body)
        assert isinstance(answer, Answer)
        reason: str = answer.body["done_reason"]
        return reason

    await ask(worker, "a")
    assert await done_reason(model="b", keep_alive=0) == "unload"
    assert (await states(worker))["b"] == "unloaded"
    assert await done_reason(model="b") == "load"
    assert (await states(worker))["b"] == "loaded"


async def test_ollama_lists_all_models_and_those_in_memory(worker: Worker) -> None:
    await ask(worker, "a")
    listed = {}
    for path in ("/api/tags", "/api/ps"):
        answer = await asking.ask(worker, "GET", path)
        assert isinstance(answer, Answer)
        listed[path] = [model["name"] for model in answer.body["models"]]
    assert listed == {
        "/api/tags": ["a:latest", "b:latest", "broken:latest", "gone:latest"],
        "/api/ps": ["a:latest"],
    }


async def test_waiting_requests_of_a_model_are_answered_in_order(worker: Worker) -> None:
    done: list[int] = []

    async def one(number: int) -> None:
        await ask(worker, "a")
        done.append(number)

    await ask(worker, "b")
    async with generating(worker, "b"):
        tasks = [asyncio.create_task(one(number)) for number in range(6)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert done == list(range(6))


async def test_the_error_of_an_unknown_name_lists_the_models(worker: Worker) -> None:
    with pytest.raises(NotFound, match="serves 'a', 'b', 'broken', 'gone'"):
        await ask(worker, "c")
    with pytest.raises(NotFound, match="'c' is not served"):
        await asking.ask(worker, "GET", "/v1/models/c")
    with pytest.raises(NotFound, match="No such route"):
        await asking.ask(worker, "POST", "/v1/other", {})


async def test_the_list_has_every_model_with_its_state_and_its_known_facts(worker: Worker) -> None:
    await ask(worker, "a")
    answer = await asking.ask(worker, "GET", "/v1/models/b")
    assert isinstance(answer, Answer)
    assert answer.body["status"] == {"value": "unloaded"}
    assert answer.body["meta"]["architecture"] == "llama"
    assert answer.body["meta"]["aliases"] == ["other", "other.gguf"]
    assert (await states(worker))["a"] == "loaded"


async def test_a_bad_request_loads_nothing(worker: Worker, fleet: Fleet) -> None:
    await ask(worker, "a")
    before = fleet.describe()["unloads"]
    with pytest.raises(InvalidRequest, match="temperature"):
        await ask(worker, "b", temperature="hot")
    assert fleet.describe()["unloads"] == before
    assert (await states(worker))["a"] == "loaded"


async def test_a_model_that_cannot_be_loaded_says_why_and_the_others_go_on(
    worker: Worker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ModelInvalid, match=r"'broken' could not be brought up \(model_invalid\)"):
        await ask(worker, "broken")
    once = r"^The model 'broken' could not be brought up \(model_invalid\)\. The worker's log has the reason\. A "
    with pytest.raises(NotReady, match=once) as caught:
        await ask(worker, "broken")
    assert caught.value.retry_after_s
    assert (await ask(worker, "b"))["model"] == "b"
    health = {model["id"]: model for model in worker.health()["models"]}
    assert (await states(worker))["broken"] == health["broken"]["status"] == "failed"
    assert health["broken"]["error"]["code"] == "model_invalid"
    listed = await asking.ask(worker, "GET", "/v1/models")
    assert isinstance(listed, Answer)
    said = f"{health} {listed.body} {caught.value.message}"
    assert str(tmp_path_factory.getbasetemp()) not in said
    assert worker.status() == "ready"


async def test_a_client_that_leaves_while_it_waits_is_forgotten(worker: Worker, fleet: Fleet) -> None:
    await ask(worker, "a")
    async with generating(worker, "a"):
        waiting = asyncio.create_task(ask(worker, "b"))
        await asyncio.sleep(0)
        assert len(fleet._residence.places["b"].waiting) == 1
        waiting.cancel()
        await asyncio.wait({waiting})
        assert not fleet._residence.places["b"].waiting
        assert not fleet._waiters
    await worker._host.idle()  # type: ignore[union-attr]
    assert (await states(worker))["a"] == "loaded"


class _Noting:
    """A lock that says when `thread` has come to it."""

    def __init__(self, lock: threading.Lock, thread: int) -> None:
        self._lock, self._thread = lock, thread
        self.is_asked_for = threading.Event()

    def __enter__(self) -> None:
        if threading.get_ident() == self._thread:
            self.is_asked_for.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


async def test_a_client_may_leave_while_its_waiter_is_being_notified(
    worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(worker, "a")
    async with generating(worker, "a"):
        waiting = asyncio.create_task(ask(worker, "b"))
        await asyncio.sleep(0)
        lock = _Noting(fleet._lock, threading.get_ident())
        monkeypatch.setattr(fleet, "_lock", lock)
        is_held = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            with lock:
                effects = fleet._residence.give_up(NotReady("Told."))
                loop.call_soon_threadsafe(is_held.set)
                assert lock.is_asked_for.wait(MOST_S)
                fleet._carry_out(effects)

        telling = asyncio.create_task(asyncio.to_thread(tell))
        await is_held.wait()
        waiting.cancel()
        await asyncio.wait({waiting})
        await telling
        assert not fleet._waiters
    assert (await ask(worker, "b"))["model"] == "b"


async def test_a_model_that_is_unloaded_after_admission_leaves_no_ticket_behind(
    worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(worker, "a")
    loaded = fleet.models["a"].loaded
    enter = fleet._enter

    async def enter_and_lose(model: FleetModel, limit_s: float | None, started_s: float) -> int:
        ticket = await enter(model, limit_s, started_s)
        model.detach()
        return ticket

    monkeypatch.setattr(fleet, "_enter", enter_and_lose)
    with pytest.raises(NotReady, match="shutting down"):
        await ask(worker, "a")
    fleet.models["a"].loaded = loaded
    await asyncio.wait_for(fleet.idle(), MOST_S)


def test_a_request_whose_loop_is_gone_does_not_keep_its_model_busy(worker: Worker, fleet: Fleet) -> None:
    async def begin() -> Stream:
        body = {"model": "a", "prompt": "Once", "max_tokens": 50, "stream": True}
        stream = await asking.ask(worker, "POST", "/v1/completions", body)
        assert isinstance(stream, Stream)
        return stream

    abandoned = asyncio.run(begin())
    asyncio.run(asyncio.wait_for(fleet.idle(), MOST_S))
    assert isinstance(abandoned, Stream)


async def test_a_request_that_times_out_while_it_waits_gets_an_error(worker: Worker, fleet: Fleet) -> None:
    await ask(worker, "a")
    async with generating(worker, "a"):
        with pytest.raises(DeadlineExceeded, match=r"'b' was not loaded within the 0\.02 s"):
            await ask(worker, "b", timeout=0.02)
    assert not fleet._waiters


async def test_the_time_limit_of_a_request_counts_from_its_arrival(worker: Worker) -> None:
    await ask(worker, "a")
    body = {"model": "b", "prompt": "Once", "max_tokens": 1, "timeout": 60}
    account = Account("http", "r")
    account.started_s -= 100
    async with generating(worker, "a"):
        with pytest.raises(DeadlineExceeded, match="was not loaded within the 60 s"):
            await asking.ask(worker, "POST", "/v1/completions", body, account)


@pytest.mark.parametrize("body", [{"prompt": "Once", "n": 100}, {"prompt": "word " * 5000}])
async def test_a_request_that_the_engine_never_took_leaves_no_ticket_behind(
    worker: Worker, fleet: Fleet, body: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest):
        await asking.ask(worker, "POST", "/v1/completions", body)
    await asyncio.wait_for(fleet.idle(), MOST_S)


@pytest.mark.parametrize("timeout", [10**400, "soon", True])
async def test_a_timeout_that_is_none_is_refused_as_by_one_model(worker: Worker, timeout: object) -> None:
    await ask(worker, "a")
    with pytest.raises(InvalidRequest, match="timeout"):
        await ask(worker, "a", timeout=timeout)


async def test_no_more_wait_than_may(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path, max_queue=1), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    async with generating(worker, "a"):
        waiting = [asyncio.create_task(ask(worker, "b")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 requests wait"):
            await ask(worker, "b")
    await asyncio.gather(*waiting)
    worker.stop()


async def test_a_model_that_is_unloaded_gives_its_memory_back(worker: Worker, fleet: Fleet) -> None:
    await ask(worker, "b")
    loaded = fleet.models["b"].loaded
    assert loaded is not None
    process = process_of(loaded.engine)
    folder = Path(f"/proc/{process.pid}")
    assert folder.exists()
    await ask(worker, "a")
    assert not folder.exists()


async def test_many_swaps_leave_nothing_behind(worker: Worker) -> None:
    for name in "abab":
        await ask(worker, name)
    before = anonymous_bytes()
    for name in "abab":
        await ask(worker, name)
    assert anonymous_bytes() < before + 8e6


async def test_metrics_count_loads_and_swaps_and_never_fall(worker: Worker, metrics: Metrics) -> None:
    def value(name: str) -> float:
        found = metrics.registry.get_sample_value(name, labels)
        assert found is not None
        return found

    labels = {"model": "a"}
    await ask(worker, "a")
    loads, swaps = value("worker_gguf_model_loads_total"), value("worker_gguf_model_unloads_total")
    tokens = metrics.registry.get_sample_value("worker_gguf_completion_tokens_total") or 0
    assert value("worker_gguf_model_loaded") == 1
    await ask(worker, "b")
    assert value("worker_gguf_model_loaded") == 0
    assert value("worker_gguf_model_unloads_total") == swaps + 1
    assert value("worker_gguf_model_load_seconds_total") > 0
    assert (metrics.registry.get_sample_value("worker_gguf_completion_tokens_total") or 0) > tokens
    await ask(worker, "a")
    assert value("worker_gguf_model_loads_total") == loads + 1


async def test_what_an_engine_has_counted_is_never_missing_while_it_ends(
    worker: Worker, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(worker, "a")
    await fleet.idle()
    before = fleet.stats
    seen = []
    loaded = fleet.models["a"].loaded
    assert loaded is not None
    stop = loaded.engine.stop

    def look_and_stop() -> None:
        seen.append(fleet.stats)
        stop()
        seen.append(fleet.stats)

    monkeypatch.setattr(loaded.engine, "stop", look_and_stop)
    await ask(worker, "b")
    assert before.steps
    assert [stats.steps >= before.steps and stats.finished >= before.finished for stats in seen] == [True, True]
    assert [stats.max_queue for stats in seen] == [0, 0]


async def test_a_models_files_are_verified_at_its_first_load_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def note(path: Path, progress: Callable[[float], bool]) -> bool | None:
        read.append(path.name)
        return matches_record(path, progress)

    monkeypatch.setattr("worker_gguf.start.examine.matches_record", note)
    worker = Worker(several(tmp_path, verify_model="sha256"), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    for name in "baba":
        await ask(worker, name)
    health = worker.health()
    worker.stop()
    assert read == [MODEL_PATH.name, "other.gguf"]
    assert [check["name"] for check in health["models"][0]["checks"]] == [
        "devices",
        "offload",
        "model",
        "volume",
        "token",
    ]
    assert checks_of(health) == health["models"][0]["checks"]  # what the SDK is told


async def test_the_wait_for_a_model_is_in_the_requests_account(worker: Worker) -> None:
    body = {"prompt": "Once", "max_tokens": 1}
    waits = []
    for name in "abb":
        account = Account("http", "r")
        await asking.ask(worker, "POST", "/v1/completions", body | {"model": name}, account)
        waits.append(line_of(account.close(200))["model_wait_ms"])
    _, swapped, there = waits
    assert isinstance(swapped, float)
    assert isinstance(there, float)
    assert swapped > there


async def test_a_job_of_the_queue_names_its_model(worker: Worker, metrics: Metrics) -> None:
    body = {"model": "b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    job = {"id": "j", "input": {"openai_route": "/v1/chat/completions", "openai_input": body}}
    answers = [item async for item in make_handler(worker, metrics, BatchLimits(4))(job)]
    assert isinstance(answers[0], dict)
    assert answers[0]["model"] == "b"


async def test_draining_serves_requests_that_wait_for_a_swap(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    async with generating(worker, "a"):
        waiting = asyncio.create_task(ask(worker, "b"))
        await asyncio.sleep(0)
        draining = asyncio.create_task(worker.drain())
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="shutting down"):
            await ask(worker, "a")
        assert not draining.done()
    assert (await waiting)["model"] == "b"
    await draining
    worker.stop()


async def test_a_drain_that_is_cut_off_and_a_stop_answer_everybody(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    async with generating(worker, "a"):
        waiting = [asyncio.create_task(ask(worker, "b")) for _ in range(3)]
        await asyncio.sleep(0)
        draining = asyncio.create_task(worker.drain())
        await asyncio.sleep(0)
        worker.cut_off()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [NotReady] * 3
        await draining
    worker.stop()
    assert worker.status() == "stopped"


async def test_a_stop_while_a_model_is_loaded_ends_cleanly(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    waiting = asyncio.create_task(ask(worker, "b"))
    await asyncio.sleep(0)
    await asyncio.to_thread(worker.stop)
    result = (await asyncio.gather(waiting, return_exceptions=True))[0]
    assert isinstance(result, dict | NotReady)
    assert worker.status() == "stopped"


async def test_a_first_model_that_cannot_be_loaded_fails_the_start(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path, models=str(tmp_path / "broken.gguf")), Metrics("test"))
    worker.start()
    with pytest.raises(ModelInvalid):
        await worker.wait_ready()
    worker.stop()


def test_a_worker_with_one_model_imports_nothing_of_this() -> None:
    code = "import sys, worker_gguf.worker, worker_gguf.start.open_model; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert "worker_gguf.start.open_model" in modules
    assert not [name for name in modules if name.startswith(("worker_gguf.fleet", "yaml"))]


async def test_models_preload_loads_as_many_models_as_fit_at_the_start(tmp_path: Path) -> None:
    worker = Worker(several(tmp_path, models_preload=4, models_max=2), Metrics("test"))
    worker.start()
    await worker.wait_ready()
    assert await states(worker) == {"a": "loaded", "b": "loaded", "broken": "unloaded", "gone": "unloaded"}
    async with generating(worker, "a"):
        assert (await ask(worker, "b"))["model"] == "b"  # beside it
    worker.stop()


async def test_the_properties_of_a_model_are_known_before_it_is_loaded(worker: Worker) -> None:
    await ask(worker, "a")
    properties = {}
    for name in "a", "b":
        request = replace(asking.request("GET", "/props", None), query={"model": name})
        answer = await worker.answer(request)
        assert isinstance(answer, Answer)
        properties[name] = answer.body
    assert [properties[name]["is_sleeping"] for name in ("a", "b")] == [False, True]
    assert properties["a"]["chat_template"] == properties["b"]["chat_template"] != ""
    assert properties["a"]["bos_token"] == properties["b"]["bos_token"] == "<|begin_of_text|>"
    assert (await states(worker))["a"] == "loaded"


async def test_only_a_loaded_model_has_slots(worker: Worker) -> None:
    await ask(worker, "a")
    for name, n_slots in ("a", 1), ("b", 0):
        answer = await worker.answer(replace(asking.request("GET", "/slots", None), query={"model": name}))
        assert isinstance(answer, Answer)
        assert len(answer.body) == n_slots


async def test_tokens_are_those_of_the_model_that_is_named(worker: Worker) -> None:
    answer = await asking.ask(worker, "POST", "/tokenize", {"model": "b", "content": "Hello"})
    assert isinstance(answer, Answer)
    assert answer.body["tokens"]
    assert (await states(worker))["b"] == "loaded"
    named = await asking.ask(worker, "POST", "/completion", {"model": "", "prompt": "Hello", "n_predict": 1})
    assert isinstance(named, Answer)
    assert named.body["model"] == "a"
