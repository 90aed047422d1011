"""The real worker with an engine process that computes nothing. For `bench.streams`."""

import sys

from worker_gguf.link import spawn

spawn._MODULE = "bench.streams.engine"  # noqa: SLF001 - the only place that names the engine process

if __name__ == "__main__":
    from worker_gguf.cli import main

    sys.exit(main(["serve"]))
