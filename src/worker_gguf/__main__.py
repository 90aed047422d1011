"""Runs the command for `python -m worker_gguf`."""

import sys

from worker_gguf.cli import main

sys.exit(main())
