"""Tests that handler.py, where RunPod's Hub looks for it, is the worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from worker_gguf.worker_process import free_port

ROOT = Path(__file__).parents[1]


def test_it_starts_the_worker_whatever_arguments_it_gets(tmp_path: Path) -> None:
    given = [f"MODEL={tmp_path}/none.gguf", f"PORT={free_port()}"]
    command = ["env", *given, sys.executable, str(ROOT / "handler.py"), "--rp_log_level", "INFO"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "No model file exists at" in done.stderr
