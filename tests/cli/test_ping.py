from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from worker_gguf.cli.ping import ping, port_of_ping
from worker_gguf.settings import Settings

QUEUE = {"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job-take"}


@contextmanager
def answering(status: int) -> Iterator[dict[str, str]]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {"PORT": str(server.server_port), "HOST": "0.0.0.0"}
        server.shutdown()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_only_a_worker_that_can_answer_is_healthy(status: int, code: int) -> None:
    with answering(status) as environ:
        assert ping(environ) == code


def test_a_worker_that_is_gone_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200) as environ:
        pass
    assert ping(environ) == 1
    assert "does not answer" in capsys.readouterr().err


def test_a_worker_without_a_port_is_not_asked() -> None:
    assert ping(QUEUE) == 0


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PORT": "8080"},
        {"PORT_HEALTH": "81"},
        {"RUNPOD_POD_ID": "a1"},
        {"RUNPOD_ENDPOINT_ID": "e1", "MODE": "http"},
        QUEUE | {"MODE": "HTTP"},
    ],
    ids=str,
)
def test_the_port_is_the_one_that_the_settings_say(environ: dict[str, str]) -> None:
    given = {name.lower(): value for name, value in environ.items()}
    assert port_of_ping(given) == Settings.load(environ).health_port


@pytest.mark.parametrize("environ", [QUEUE, QUEUE | {"MODE": "queue"}], ids=str)
def test_a_queue_worker_has_the_port_that_is_asked_for(environ: dict[str, str]) -> None:
    given = {name.lower(): value for name, value in environ.items()}
    assert port_of_ping(given) is None
    assert port_of_ping({**given, "port_health": "81"}) == 81
