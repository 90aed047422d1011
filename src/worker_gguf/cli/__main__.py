"""Runs the command for `python -m worker_gguf.cli`."""

import sys

from worker_gguf.cli import main

sys.exit(main())
