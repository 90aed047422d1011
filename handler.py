"""RunPod looks for a handler.py. This is the whole worker: queue jobs or HTTP, by what the platform offers."""

import sys

from worker_gguf.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve"]))
