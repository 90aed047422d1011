"""A worker process for the tests: the real SDK and our queue front end over a fake backend.

Its first argument is CONCURRENCY,DRAIN_TIMEOUT_S.
"""

from __future__ import annotations

import sys

from tests.fake_backend import FakeBackend
from worker_gguf.observe import log
from worker_gguf.observe.metrics import Metrics
from worker_gguf.queue.batch_job import BatchLimits
from worker_gguf.queue.sdk import run_queue

if __name__ == "__main__":
    log.configure("debug")
    backend = FakeBackend()
    concurrency, drain_timeout_s = (int(word) for word in sys.argv[1].split(","))
    run_queue(
        backend,
        Metrics("test"),
        concurrency=concurrency,
        drain_timeout_s=drain_timeout_s,
        batch_limits=BatchLimits(2 * concurrency, progress_every_s=0),
    )
    print("drained", backend.drained.is_set(), "cancelled", len(backend.cancelled), "left", len(backend.running))
