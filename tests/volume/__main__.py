"""Workers on a real MooseFS as their shared volume: `make test-volume`, or `python -m tests.volume`.

Three machines are three mounts. The hub is the stand-in of the tests. Needs root for the namespaces it runs in; where
something is missing it says what, and counts as skipped. Names of checks run only those.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.fake_hub import FakeHub
from tests.volume.checks import Volume, fetched_once, hub_down, leader_killed, master_restarted, volume_gone
from tests.volume.moosefs import MooseFs, why_not

INSIDE = "--inside"
CHECKS: tuple[Callable[[Volume], str], ...] = (fetched_once, hub_down, leader_killed, master_restarted, volume_gone)


def main() -> int:
    if INSIDE not in sys.argv:
        if reason := why_not():
            print(f"volume test: skipped: {reason}")
            return 0
        apart = ["unshare", "--net", "--mount", "--propagation", "private"]
        command = [*apart, sys.executable, "-m", "tests.volume", INSIDE, *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode
    begun_at, failed = time.monotonic(), 0
    checks = [check for check in CHECKS if check.__name__ in sys.argv] or CHECKS
    with tempfile.TemporaryDirectory() as folder, MooseFs(Path(folder)) as moosefs, FakeHub() as hub:
        volume = Volume(moosefs, hub, [moosefs.mount(number) for number in range(3)])
        print(f"  MooseFS with 3 mounts after {time.monotonic() - begun_at:.1f} s", flush=True)
        for check in checks:
            at, name = time.monotonic(), check.__name__.replace("_", " ")
            try:
                said = check(volume)
            except (AssertionError, TimeoutError, OSError, subprocess.SubprocessError) as error:
                failed, said = failed + 1, f"FAILED: {error}"
            finally:
                volume.end_workers()
            print(f"  {name}: {said} ({time.monotonic() - at:.1f} s)", flush=True)
    passed = len(checks) - failed
    print(
        f"volume test: {passed} of {len(checks)} checks passed on MooseFS, 3 workers; "
        f"{time.monotonic() - begun_at:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.pop("HF_TOKEN", None)
    sys.exit(main())
