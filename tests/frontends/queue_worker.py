"""A worker process for the tests: the real SDK and our queue front end over a fake backend."""

from __future__ import annotations

from tests.frontends.fake_backend import FakeBackend
from worker_gguf import log
from worker_gguf.frontends.queue_sdk import run_queue
from worker_gguf.metrics import Metrics

if __name__ == "__main__":
    log.configure("debug")
    backend = FakeBackend()
    run_queue(backend, Metrics("test"), concurrency=4, drain_timeout_s=5)
    print("drained", backend.drained.is_set(), "cancelled", len(backend.cancelled), "left", len(backend.running))
