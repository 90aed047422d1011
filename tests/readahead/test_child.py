"""Tests of the fork of the child process that reads ahead."""

from __future__ import annotations

import subprocess
import sys

# The hook runs before that of logging, because it is registered before logging is imported.
SCRIPT = """
import os, signal
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
import logging
from worker_gguf.readahead.child import fork
try:
    fork(lambda: None, lambda timeout_s: True, lambda: None)
except KeyboardInterrupt:
    logging.warning("interrupted")
"""


def test_ctrl_c_during_the_fork_comes_after_it_and_the_log_still_works() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert ran.stderr == "WARNING:root:interrupted\n"
