"""Tests of an engine process from outside: it answers, dies, and never outlives its worker."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import MOST_S, wait_until
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.engine.runner import SpecialTokens
from worker_gguf.errors import ModelInvalid
from worker_gguf.link.messages import (
    Add,
    ContextOpened,
    Found,
    LoadModel,
    Look,
    ModelLoaded,
    OpenContext,
    Serve,
    Step,
    Stop,
)
from worker_gguf.link.process import EngineDied, EngineProcess

LOAD = LoadModel(str(MODEL_PATH), ModelParams(), False, 30)
CONTEXT = ContextParams(
    n_ctx=256, n_parallel=1, n_cells=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, unified=True
)
OPEN = OpenContext(CONTEXT, 0, True, 1)
SERVE = Serve(SpecialTokens(), 8)
ENDLESS = GenerationRequest("a", (1,), SamplingParams(temperature=0.0, ignore_eos=True), 200)


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    started = EngineProcess()
    yield started
    started.kill()
    started.end()


def state_of(pid: int) -> str:
    """Return the state of a process: T if it is stopped, Z if it has ended and its parent does not know yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_looks_loads_opens_and_serves(process: EngineProcess) -> None:
    found = process.ask(Look(), Found)
    assert found.machine.n_cores >= 1
    assert found.began_s < found.imported_s
    fractions: list[float] = []

    def note(fraction: float) -> bool:
        fractions.append(fraction)
        return True

    loaded = process.ask(LOAD, ModelLoaded, progress=note)
    assert loaded.n_params > 1e6
    assert fractions[-1] == 1.0
    opened = process.ask(OPEN, ContextOpened)
    assert opened.limits.n_ctx == 256
    assert opened.first_logprob is not None
    assert opened.first_logprob <= 0
    process.send(SERVE)
    process.send(Add(1, ENDLESS, None))
    n_tokens, reason = 0, None
    while reason is None:
        step = process.receive()
        assert isinstance(step, Step)
        n_tokens += len(step.tokens)
        reason = next((ending.reason for ending in step.endings), None)
    assert (n_tokens, reason) == (200, "length")
    process.send(Stop())
    process.end()
    assert not process.is_alive


def answer_of(process: EngineProcess, special: SpecialTokens, n: int = 5) -> tuple[list[int], str]:
    """Load, open, serve with these special tokens, and return a greedy answer with its reason."""
    process.ask(LOAD, ModelLoaded)
    process.ask(OPEN, ContextOpened)
    process.send(Serve(special, 8))
    process.send(Add(1, GenerationRequest("a", (1, 2, 3), SamplingParams(temperature=0.0), n), None))
    tokens: list[int] = []
    while True:
        step = process.receive()
        assert isinstance(step, Step)
        tokens += step.tokens
        if step.endings:
            return tokens, step.endings[0].reason


def test_the_special_tokens_of_serve_end_answers_and_are_not_drawn() -> None:
    answers = []
    plain: list[int] = []
    for kind in ("plain", "eog", "suppressed"):
        process = EngineProcess()
        try:
            some = frozenset(plain[1:2])
            special = {
                "plain": SpecialTokens(),
                "eog": SpecialTokens(eog=some),
                "suppressed": SpecialTokens(suppressed=some),
            }[kind]
            answers.append(answer_of(process, special))
            plain = answers[0][0]
        finally:
            process.kill()
            process.end()
    assert answers[0][1] == answers[2][1] == "length"
    assert answers[1] == (plain[:1], "stop")
    assert plain[1] not in answers[2][0]
    assert answers[2][0][0] == plain[0]


def test_a_failed_command_raises_its_error_and_the_next_one_is_carried_out(
    process: EngineProcess, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(ModelInvalid, match=r"broken\.gguf could not be loaded"):
        process.ask(LoadModel(str(broken), ModelParams(), False, 50), ModelLoaded)
    assert process.ask(LOAD, ModelLoaded).n_params > 1e6


def test_a_load_that_is_not_wanted_any_more_is_killed(process: EngineProcess) -> None:
    with pytest.raises(EngineDied):
        process.ask(LOAD, ModelLoaded, progress=lambda _: False)
    wait_until(lambda: not process.is_alive)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [(signal.SIGKILL, "was killed (SIGKILL), most likely because"), (signal.SIGSEGV, "was ended by SIGSEGV")],
)
def test_the_reason_of_a_death_is_a_sentence(process: EngineProcess, how: signal.Signals, sentence: str) -> None:
    process.ask(Look(), Found)
    os.kill(process.pid, how)
    with pytest.raises(EngineDied) as caught:
        process.receive()
    assert sentence in str(caught.value)


def test_a_process_that_closes_its_channel_is_ended(process: EngineProcess) -> None:
    process.ask(Look(), Found)
    process._channel.close()
    with pytest.raises(EngineDied):
        process.receive()
    wait_until(lambda: not process.is_alive)


def test_signals_of_a_terminal_or_a_platform_do_not_end_it(process: EngineProcess) -> None:
    process.ask(Look(), Found)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    assert process.ask(Look(), Found).machine.n_cores >= 1


PARENT = """
import sys, time
from tests.link.test_process import LOAD, OPEN, SERVE, ENDLESS
from worker_gguf.link.process import EngineProcess
from worker_gguf.link.messages import *
process = EngineProcess()
process.ask(Look(), Found)
if sys.argv[1] == "serving":
    process.ask(LOAD, ModelLoaded)
    process.ask(OPEN, ContextOpened)
    process.send(SERVE)
    process.send(Add(1, ENDLESS, None))
print(process.pid, flush=True)
time.sleep(60)
"""


PR_SET_CHILD_SUBREAPER = 36  # sys/prctl.h


@pytest.fixture
def adopting() -> Iterator[None]:
    """Let this process adopt the children of ended processes, as the first process of a container does.

    As long as an adopting process is in the session of its adopted child, the system continues no stopped child.
    """
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.usefixtures("adopting")
@pytest.mark.parametrize("moment", ["idle", "serving", "stopped"])
def test_it_ends_when_its_worker_is_killed(moment: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, moment], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if moment == "stopped":
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: state_of(pid) == "T")
        parent.kill()
    try:
        wait_until(lambda: state_of(pid) == "Z")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_it_goes_on_when_the_thread_that_started_it_ends() -> None:
    started: list[EngineProcess] = []

    def start() -> None:
        started.append(EngineProcess())
        started[0].ask(Look(), Found)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (process,) = started
    assert process.ask(Look(), Found).machine.n_cores >= 1
    process.kill()
    process.end()


def test_a_file_in_the_current_folder_does_not_stand_in_for_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "select.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    process = EngineProcess()
    assert process.ask(Look(), Found).machine.n_cores >= 1
    process.send(Stop())
    process.end(MOST_S)
    assert process._status == 0  # it was not killed
