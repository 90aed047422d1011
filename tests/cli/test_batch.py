"""Tests of the arguments of `worker-gguf batch`: what is refused before a model is loaded, and what is shown."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import chat, lines, write_requests
from tests.pages import blocks, broken_links
from worker_gguf.batch.dispatch import Result
from worker_gguf.batch.request import read_request
from worker_gguf.batch.tally import Tally
from worker_gguf.cli import main
from worker_gguf.cli.batch import _Answering
from worker_gguf.cli.batch_progress import BatchProgress, duration_text
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.queue.job_input import read_batch_input


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_requests(tmp_path / "in.jsonl", [chat("a")])


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int = 1) -> str:
    assert main(["batch", *map(str, words)]) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Loading" not in said
    return said


def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    assert "none.jsonl cannot be read: No such file" in refused(capsys, tmp_path / "none.jsonl", output)
    assert "cannot be read: Is a directory" in refused(capsys, tmp_path, output)
    assert not output.exists()


def test_an_output_that_is_the_input_is_refused_and_the_input_stays(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = source.read_bytes() + b"torn"
    source.write_bytes(content)
    (source.parent / "link").symlink_to(source)
    os.link(source, source.parent / "hard")
    for output in (source, source.parent / "link", source.parent / "hard"):
        assert "must be another file" in refused(capsys, source, output)
    assert source.read_bytes() == content


def test_an_output_that_cannot_be_written_is_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be opened: Is a directory" in refused(capsys, source, source.parent)
    assert "cannot be opened: No such file" in refused(capsys, source, source.parent / "none" / "out.jsonl")
    assert "is not a plain file" in refused(capsys, source, "/dev/full")


def test_a_wrong_setting_is_named(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("N_CTX", "8k")
    assert "N_CTX='8k'" in refused(capsys, source, source.parent / "out.jsonl", code=2)


def test_an_input_without_requests_is_done_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text("\n")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    assert "0 of 0 requests have a result" in capsys.readouterr().err


def test_the_help_says_how_to_go_on_and_what_a_double_id_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["batch", "--help"])
    said = capsys.readouterr().out
    assert "run it again with the same files" in said
    assert "same custom_id get two answers" in said
    assert "exit codes:" in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def results(n: int) -> list[Result]:
    (line,) = lines("a")
    return [Result(line, b"", n_tokens=5)] * n


def test_lines_come_every_ten_seconds_without_a_terminal() -> None:
    stream = io.StringIO()
    with BatchProgress(Tally(100, 20, 0), Path("out.jsonl"), stream) as progress:
        progress.begin(1000)
        for second, result in enumerate(results(25), 1):
            progress.add(result, 1000 + second)
        progress.finish(45)
    assert stream.getvalue().splitlines() == [
        "100 requests, 20 of them answered before. The results go to out.jsonl.",
        "30 of 100 answered (30%), 0 errors, 1.0 requests/s, about 1 min 10 s left",
        "40 of 100 answered (40%), 0 errors, 1.0 requests/s, about 1 min 0 s left",
        "45 of 100 requests have a result in out.jsonl.",
        "This run: 25 results, 0 of them errors, 125 tokens in 25 s (5.0 tokens/s).",
        "Run the same command again to go on.",
    ]


def test_a_terminal_gets_a_bar_with_an_estimate() -> None:
    stream = Terminal()
    with BatchProgress(Tally(100, 20, 0), Path("out.jsonl"), stream) as progress:
        progress.begin(1000)
        for result in results(80):
            progress.add(result, 1001)
        progress.finish(100)
    assert "100%" in stream.getvalue()
    assert "100/100" in stream.getvalue()
    assert "errors=0" in stream.getvalue()
    assert "again to go on" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


PAGE = Path(__file__).parents[2] / "docs" / "batch.md"


def test_the_page_has_only_links_that_lead_somewhere_and_requests_that_are_good() -> None:
    assert broken_links(PAGE) == []
    request, _, *jobs = map(json.loads, blocks(PAGE.read_text("utf-8"), "json"))
    (line,) = lines(request)
    assert parse_chat(read_request(line).body, Defaults(strict=True)).options.ignored == ()
    assert [type(call.requests) for job in jobs if (call := read_batch_input(job["input"]))] == [list, str]


class Interrupted:
    """A worker whose start is interrupted as `asyncio.run` does it for a SIGINT: the task is cancelled."""

    async def wait_ready(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


async def test_a_cancellation_that_no_signal_handler_asked_for_counts_as_an_interrupt() -> None:
    nothing: Any = None
    worker: Any = Interrupted()
    assert await _Answering(worker, nothing, nothing, nothing).run(nothing) == signal.SIGINT
