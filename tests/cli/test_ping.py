from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import product
from threading import Thread

import pytest

from worker_gguf.cli.ping import ping, port_of_ping
from worker_gguf.environment import given
from worker_gguf.errors import SettingsError
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


def test_the_port_is_the_one_that_the_settings_say() -> None:
    """Check every combination of the variables that decide it."""
    choices: list[list[dict[str, str]]] = [
        [{}, {"MODE": "auto"}, {"MODE": "HTTP"}, {"MODE": "queue"}],
        [{}, QUEUE],
        [{}, {"RUNPOD_POD_ID": "a1"}],
        [{}, {"RUNPOD_ENDPOINT_ID": "e1"}],
        [{}, {"PORT": "8080"}, {"PORT": "auto"}, {"PORT": " "}],
        [{}, {"PORT_HEALTH": "81"}, {"PORT_HEALTH": "auto"}],
    ]
    n_compared = 0
    for chosen in product(*choices):
        environ = {name: text for part in chosen for name, text in part.items()}
        try:
            settings = Settings.load(environ)
        except SettingsError:
            continue  # such a worker does not run
        has_port = settings.resolved_mode == "http" or settings.port_health
        assert port_of_ping(given(environ)) == (settings.health_port if has_port else None), environ
        n_compared += 1
    assert n_compared > 100


@pytest.mark.parametrize("environ", [{"PORT_HEALTH": "many"}, {"PORT": "99999"}, {"PORT": "-1"}], ids=str)
def test_a_bad_port_is_an_error(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ping(environ) == 1
    (name, value) = next(iter(environ.items()))
    assert f"{name}='{value}' is not valid" in capsys.readouterr().err
