from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from worker_gguf.observe import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_names_time_level_logger_and_event_first() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)
    logging.getLogger("worker_gguf.start.boot").info("model loaded", extra={"seconds": 4.1})
    [line] = lines(stream)
    assert list(line) == ["timestamp", "level", "logger", "event", "seconds"]
    assert line["timestamp"].endswith("Z")
    assert (line["level"], line["logger"], line["event"], line["seconds"]) == (
        "info",
        "worker_gguf.start.boot",
        "model loaded",
        4.1,
    )


def test_bound_ids_are_on_every_line_inside_and_none_outside() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)
    logger = logging.getLogger("worker_gguf")
    with log.bound(request_id="r1", job_id="j1"):
        logger.info("inside")
        logging.getLogger("library").warning("foreign %s", "too")
    logger.info("outside")
    inside, foreign, outside = lines(stream)
    assert (inside["request_id"], inside["job_id"]) == ("r1", "j1")
    assert (foreign["event"], foreign["request_id"]) == ("foreign too", "r1")
    assert "request_id" not in outside


def test_the_level_applies_to_ours_and_theirs() -> None:
    stream = io.StringIO()
    log.configure("warning", "json", stream=stream)
    logging.getLogger("worker_gguf").info("too quiet")
    logging.getLogger("uvicorn.error").info("too quiet")
    logging.getLogger("worker_gguf").warning("heard")
    assert [line["event"] for line in lines(stream)] == ["heard"]


@pytest.mark.parametrize("name", log.QUIET)
def test_chatty_libraries_are_heard_from_warning_on(name: str) -> None:
    stream = io.StringIO()
    log.configure("debug", "json", stream=stream)
    logging.getLogger(f"{name}.child").info("GET /secret")
    logging.getLogger(name).warning("trouble")
    assert [line["event"] for line in lines(stream)] == ["trouble"]


@pytest.mark.parametrize(
    ("stream", "on_runpod", "is_json"),
    [(io.StringIO(), False, True), (Terminal(), False, False), (Terminal(), True, True)],
    ids=["no terminal", "terminal", "terminal on RunPod"],
)
def test_auto_is_json_on_runpod_or_without_a_terminal(stream: io.StringIO, on_runpod: bool, is_json: bool) -> None:
    log.configure("info", "auto", on_runpod=on_runpod, stream=stream)
    logging.getLogger("worker_gguf").info("ready")
    assert stream.getvalue().startswith("{") is is_json
    assert "ready" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(log_format: Any) -> None:
    stream = io.StringIO()
    log.configure("info", log_format, stream=stream)

    def answer(prompt: str) -> None:
        raise RuntimeError("decode failed")

    try:
        answer("tpmorp etavirp"[::-1])  # reversed: tracebacks quote this very line
    except RuntimeError:
        logging.getLogger("worker_gguf").exception("request failed")
    assert "Traceback" in stream.getvalue()
    assert "decode failed" in stream.getvalue()
    assert "private prompt" not in stream.getvalue()


def test_a_logger_made_before_configure_follows_it() -> None:
    logger = logging.getLogger("worker_gguf.early")
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)
    logger.info("late")
    assert [line["event"] for line in lines(stream)] == ["late"]


def test_lines_before_the_configuration_are_held_and_then_written_once() -> None:
    stream = io.StringIO()
    log.hold()
    logging.getLogger("worker_gguf.early").debug("too quiet")
    logging.getLogger("worker_gguf.early").info("first")
    logging.getLogger("uvicorn").info("too quiet for a library")
    log.configure("info", "json", stream=stream)
    logging.getLogger("worker_gguf.early").info("second")
    assert [line["event"] for line in lines(stream)] == ["first", "second"]


def test_a_thread_that_still_has_the_old_handler_loses_no_line() -> None:
    stream = io.StringIO()
    log.hold()
    held = logging.getLogger().handlers[-1]
    log.configure("info", "json", stream=stream)
    for level, message in ((logging.DEBUG, "too quiet"), (logging.INFO, "late")):
        held.handle(logging.makeLogRecord({"msg": message, "levelno": level, "levelname": "INFO"}))
    assert [line["event"] for line in lines(stream)] == ["late"]


def test_held_lines_can_be_written_without_settings(capsys: pytest.CaptureFixture[str]) -> None:
    log.hold()
    logging.getLogger("worker_gguf.early").info("first")
    log.write_held()
    log.write_held()
    assert json.loads(capsys.readouterr().err)["event"] == "first"


def test_configure_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure("info", "json", stream=first)
    log.configure("info", "json", stream=second)
    logging.getLogger("worker_gguf").info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_bound_fields_end_with_the_task_that_bound_them() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)

    async def answer(job_id: str) -> None:
        log.bind(job_id=job_id)
        logging.getLogger("worker_gguf").info("answered")

    async def run() -> None:
        await asyncio.gather(answer("j1"), answer("j2"))
        logging.getLogger("worker_gguf").info("done")

    asyncio.run(run())
    assert [line.get("job_id") for line in lines(stream)] == ["j1", "j2", None]


def test_a_console_line_has_level_event_and_fields() -> None:
    stream = io.StringIO()
    log.configure("info", "console", stream=stream)
    logging.getLogger("worker_gguf").warning("model pruned", extra={"model": "a b", "size_bytes": 3})
    assert stream.getvalue().split(maxsplit=1)[1].split() == "warning model pruned model='a b' size_bytes=3".split()


def test_a_value_without_a_json_form_is_written_all_the_same() -> None:
    stream = io.StringIO()
    log.configure("info", "json", stream=stream)
    logging.getLogger("worker_gguf").info("found", extra={"path": Path("/models")})
    assert lines(stream)[0]["path"] == repr(Path("/models"))
