"""Loads models up to their first decode, each in a process of its own, so that a crash ends only that process.

The processes are forked from one that has imported llama.cpp and has not started it, so that each takes milliseconds.
`python -m tests.gguf.loading FILE...` prints a line of JSON for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from worker_gguf.engine.machine import Machine
from worker_gguf.engine.params import ModelParams
from worker_gguf.engine_process.first_token import first_token
from worker_gguf.errors import WorkerError
from worker_gguf.gguf import read_headers
from worker_gguf.llama.context import Context
from worker_gguf.llama.model import Model
from worker_gguf.llama.runner import LlamaRunner
from worker_gguf.plan.planning import plan_for
from worker_gguf.settings import Settings
from worker_gguf.start.params import context_params, vocabulary_size

__all__ = ["Outcome", "load_all", "load_apart"]

SERVED = "served"
MOST_S = 30
MOST_BYTES = 8 << 30
_ODD = "Hello, what is 2+2?\n\tünï 漢字 \x00\x7f🦙"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is the class of what was raised, or `served`; empty if the process ended without saying."""

    name: str
    error: str
    message: str
    exit_code: int
    """Negative: the signal that ended the process."""
    seconds: float
    said: str
    """The end of standard error."""

    @property
    def is_typed(self) -> bool:
        """Return whether the model was served, or ended with an error that a user can read."""
        if self.error:
            return self.exit_code == 0
        return self.exit_code == 1 and "llama.cpp stopped at" in self.said


def load_all(paths: Sequence[Path]) -> list[Outcome]:
    """Load each in a process of its own; none of what they do reaches this one."""
    command = [sys.executable, "-m", "tests.gguf.loading", *map(str, paths)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | {"N_THREADS": "1"})
    return [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def load_apart(path: Path) -> Outcome:
    """Load in a forked process. Only for one that has not started llama.cpp."""
    begun_at, (reads, writes) = time.monotonic(), os.pipe()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            _be_child(path, writes, said.fileno())
        os.close(writes)
        with os.fdopen(reads, "rb") as pipe:
            answer = pipe.read()
        status = os.waitpid(pid, 0)[1]
        said.seek(0)
        heard = said.read()[-2000:].decode("utf-8", "replace")
    error, message = json.loads(answer) if answer else ("", "")
    code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun_at
    return Outcome(path.name, error, message, code, round(seconds, 3), heard)


def _be_child(path: Path, writes: int, said: int) -> None:
    try:
        os.dup2(said, 1)
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
        signal.alarm(MOST_S)
        os.write(writes, json.dumps(_load(path))[:60_000].encode())
    finally:
        os._exit(0)


def _load(path: Path) -> tuple[str, str]:
    settings = Settings(model="embedded", n_threads=1, n_parallel=1, n_ctx=256)
    try:
        header = read_headers([path])
        plan = plan_for(header, Machine(1, 4 << 30), settings)
        if (size := vocabulary_size(header)) is not None:  # as the first model of a worker is loaded
            bare = Model(path, ModelParams(vocabulary_size=size))
            first_token(LlamaRunner(bare, Context(bare, context_params(settings, plan))), 0)
        model = Model(path, ModelParams())
        with contextlib.suppress(WorkerError):
            model.vocabulary.tokenize(_ODD, add_special=True, parse_special=True)
        model.vocabulary.text(range(model.vocabulary.n_tokens))
        runner = LlamaRunner(model, Context(model, context_params(settings, plan)), model.vocabulary.special)
        first = first_token(runner, model.vocabulary.bos or 0)
        runner.close()
        if isinstance(first, WorkerError):
            raise first
    except WorkerError as error:
        return type(error).__name__, error.message
    except Exception as error:  # noqa: BLE001 a bug, which the tests show
        return f"unexpected {type(error).__name__}", str(error)
    return SERVED, ""


def _outcomes(paths: Sequence[str]) -> Iterator[Outcome]:
    for path in paths:
        yield load_apart(Path(path))


if __name__ == "__main__":
    for outcome in _outcomes(sys.argv[1:]):
        print(json.dumps(asdict(outcome)), flush=True)
