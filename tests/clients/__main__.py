"""Starts a worker with the embedded model and lets each client run its loop: `make clients-test`.

The embedded model was trained to call the tool and to answer from its result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.waiting import wait_until
from worker_gguf.worker_process import SERVE, free_port

LOOPS = Path(__file__).with_name("loops.py")


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--python", default=".venv-clients/bin/python", help="of the clients' environment")
    parser.add_argument("names", nargs="*", help="of clients; default: all")
    args = parser.parse_args(given)
    port = free_port()
    env = {"MODE": "http", "HOST": "127.0.0.1", "PORT": str(port), "MODEL": "embedded", "N_CTX": "2048"}
    worker = subprocess.Popen(SERVE, env={**os.environ, **env, "LOG_LEVEL": "warning"})
    try:
        wait_until(lambda: _answers(port), 60)
        command = [args.python, str(LOOPS), f"http://127.0.0.1:{port}/v1", *args.names]
        return subprocess.run(command, check=False).returncode
    finally:
        worker.terminate()
        worker.wait(30)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
