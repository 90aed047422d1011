"""Checks of the built image. Each check prints a line, or ends the run with a sentence."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import emulator
from tests.fake_hub import FakeHub, FakeRepo
from tests.image.buildah import Config, Container
from tests.image.worker import ask, chat, chat_body, serving
from worker_gguf.embedded import MODEL_PATH, Prompt, published_prompts

__all__ = [
    "REPO",
    "TOKEN",
    "baked_model_needs_no_hub",
    "defaults_are_right",
    "first_ping",
    "gated_hub",
    "jobs_are_right",
    "nothing_is_left_over",
    "root_is_given_up",
]

REPO = "acme/tiny-GGUF"
TOKEN = "hf_only-for-the-build"
WORKER_UID = 10001
DEFAULT_MODEL = "DavidAU/Llama-3.2-8X3B-MOE-Dark-Champion-Instruct-uncensored-abliterated-18.4B-GGUF"
_COMPILER = re.compile(r"(\w+-linux-gnu-)?(c\+\+|cc|cc1|cc1plus|clang|cpp|g\+\+|gcc|nvcc)(-\d+)?")
_SLOW_BYTES_PER_S = 1_500_000.0


def defaults_are_right(config: Config) -> None:
    _check("the default model", config.environment["MODEL"] == DEFAULT_MODEL, config.environment["MODEL"])
    _check("the Hub may be asked", not config.environment["HF_HUB_OFFLINE"])
    _check("the SDK logs no answers", config.environment["RUNPOD_DEBUG_LEVEL"] == "INFO")
    _check("labels", config.labels["org.opencontainers.image.version"] == "test")


def nothing_is_left_over(container: Container) -> None:
    """The image has no compiler, although the base has one, no installer, and bytecode for every module."""
    named = [path for path in container.root.rglob("*") if _COMPILER.fullmatch(path.name) and not path.is_symlink()]
    found = [str(path.relative_to(container.root)) for path in named if path.is_file() and path.stat().st_mode & 0o111]
    _check("no compiler", not found, ", ".join(found))
    own = container.root / "opt" / "worker"
    _check("no pip for the worker", not list(own.rglob("site-packages/pip")))
    modules = [path for path in own.rglob("site-packages/**/*.py") if "-" not in path.stem]
    without = [path for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.*.pyc"))]
    _check("bytecode of every module", not without, ", ".join(path.name for path in without[:5]) or str(len(modules)))


def root_is_given_up(container: Container, config: Config, scratch: Path) -> None:
    """The entry point drops root's rights, unless a volume belongs to root only."""
    entry = config.command[0]
    alone = container.run(entry, "id", "-u")
    _check("not root", alone.stdout.strip() == str(WORKER_UID), alone.stdout + alone.stderr)
    for mode, uid in ((0o777, WORKER_UID), (0o755, 0)):
        volume = scratch / f"volume-{mode:o}"
        volume.mkdir()
        volume.chmod(mode)
        mounted = container.run(entry, "id", "-u", volumes=[f"{volume}:/runpod-volume"])
        _check(f"on a volume of mode {mode:o}", mounted.stdout.strip() == str(uid), mounted.stdout + mounted.stderr)
        _check("  and says so" if uid == 0 else "  in silence", ("stays root" in mounted.stderr) == (uid == 0))
    readonly = container.run(entry, "id", "-u", volumes=[f"{volume}:/runpod-volume:ro"])
    _check("on a read-only volume", readonly.stdout.strip() == str(WORKER_UID), readonly.stdout + readonly.stderr)
    port = "import socket; socket.socket().bind(('127.0.0.1', 85))"
    low = container.run(entry, "python", "-c", port)
    _check("may bind a port below 1024", low.returncode == 0, low.stderr)


def first_ping(container: Container, config: Config, scratch: Path) -> float:
    """A first start answers 204 while the model is fetched, then 200, then correctly. Returns the seconds to 204."""
    with FakeHub() as hub:
        hub.repos[REPO] = _repo()
        hub.bytes_per_s = _SLOW_BYTES_PER_S
        where = {"MODEL": REPO, "HF_ENDPOINT": hub.url}
        with serving(container, config, scratch / "http.log", **where) as worker:
            seen = worker.first_answers(until=200)
            _check("/ping says 204, then 200", list(seen) == [204, 200], str(seen))
            _check("the process is not root", worker.uid() == WORKER_UID, str(worker.uid()))
            prompt = _prompt()
            answer = chat(worker.url, prompt)
            _check("the answer over HTTP", answer.strip() == prompt.expected.strip(), answer)
            port = worker.url.rpartition(":")[2]
            health = container.run(*config.healthcheck[1:], PORT=port)
            _check("the health check", config.healthcheck[0] == "CMD" and health.returncode == 0, health.stdout.strip())
            _check("SIGTERM ends it with 0", worker.stop() == 0, worker.log()[-1000:])
    return seen[204]


def jobs_are_right(container: Container, config: Config, scratch: Path) -> None:
    """A job of the queue is answered correctly through RunPod's SDK in the container."""
    prompt = _prompt()
    with emulator.start() as platform:
        where = platform.worker_environment() | {"MODEL": "embedded"}
        with serving(container, config, scratch / "queue.log", **where) as worker:
            given = {"openai_route": "/v1/chat/completions", "openai_input": chat_body(prompt)}
            job = ask(f"{platform.endpoint_url}/run", {"input": given})
            while job["status"] in ("IN_QUEUE", "IN_PROGRESS"):
                worker.check_alive()
                time.sleep(0.05)
                job = ask(f"{platform.endpoint_url}/status/{job['id']}")
            _check("a queue job completes", job["status"] == "COMPLETED", str(job))
            answer = job["output"][0]["choices"][0]["message"]["content"]
            _check("the answer of the job", answer.strip() == prompt.expected.strip(), answer)
            _check("its log keeps quiet about it", prompt.expected not in worker.log())


def baked_model_needs_no_hub(container: Container, config: Config, scratch: Path) -> None:
    _check("a baked image is offline", config.environment["HF_HUB_OFFLINE"] == "1")
    files = [path for path in container.root.rglob("models/**/*") if path.is_file()]
    _check("the model is in it", sum(path.stat().st_size for path in files if not path.is_symlink()) > 4_000_000)
    told = f"{config}{[path for path in files if path.stat().st_size < 1_000_000 and TOKEN in path.read_text()]}"
    _check("the token is not", TOKEN not in told)
    with serving(container, config, scratch / "baked.log", HF_ENDPOINT="http://127.0.0.1:9") as worker:
        worker.first_answers(until=200)
        prompt = _prompt()
        answer = chat(worker.url, prompt)
        _check("its answer, with no Hub", answer.strip() == prompt.expected.strip(), answer)


@contextlib.contextmanager
def gated_hub() -> Iterator[FakeHub]:
    """Run a Hub that shows the model only to clients with the token."""
    with FakeHub() as hub:
        hub.repos[REPO] = _repo()
        hub.repos[REPO].token = TOKEN
        yield hub


def _repo() -> FakeRepo:
    repo = FakeRepo()
    repo.push({"tiny-Q8_0.gguf": MODEL_PATH.read_bytes()})
    return repo


def _prompt() -> Prompt:
    return next(prompt for prompt in published_prompts() if not prompt.tools)


def _check(what: str, is_so: bool, saw: str = "") -> None:
    if not is_so:
        raise SystemExit(f"image-test failed: {what}: {saw.strip() or 'not so'}")
    print(f"  ok  {what}", flush=True)
