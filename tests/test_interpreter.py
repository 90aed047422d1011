"""Tests of the interpreter's tuning, in a process of its own, because it is for the whole process."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc, sys
usual = gc.get_threshold(), sys.getswitchinterval()
from worker_gguf import interpreter
interpreter.for_the_start()
assert gc.get_threshold()[0] > 50_000
assert sys.getswitchinterval() < 0.001
kept = gc.get_freeze_count()
interpreter.for_requests()
assert (gc.get_threshold(), sys.getswitchinterval()) == usual
assert gc.get_freeze_count() > kept + 1000
interpreter.for_the_sdk()
assert sys.getswitchinterval() < usual[1]
"""


def test_requests_get_pythons_defaults_again_and_the_objects_of_the_start_are_not_searched() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
