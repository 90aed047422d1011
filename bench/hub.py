"""Measures the bytes that the Hub serves to workers with a shared volume: four at once, and a leader killed half-way.

The limit is the file itself: every byte once. The hub is a stand-in on this machine, behind a line of a known width.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.store.swarm import Swarm, swarm

MIB = 2**20


def four_workers(workers: Swarm) -> None:
    workers.start(4)
    workers.finish()


def leader_killed(workers: Swarm) -> None:
    workers.start(4)
    workers.wait_served(len(workers.content) // 2)
    workers.kill(workers.leader())
    killed_at, served = time.monotonic(), workers.hub.bytes_served
    time.sleep(0.5)  # what was on its way to the dead
    served = max(served, workers.hub.bytes_served)
    workers.wait_served(served + 1)
    print(f"  taken over {time.monotonic() - killed_at:.1f} s after the kill", file=sys.stderr)
    workers.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--mib-per-s", type=float, default=48.0, help="width of the hub's line")
    args = parser.parse_args()
    figures: dict[str, float] = {}
    for name, play in {
        "hub_bytes_ratio_4_workers": four_workers,
        "hub_bytes_ratio_leader_killed": leader_killed,
    }.items():
        begun_at = time.monotonic()
        # No tuning: the constants are those of a real worker.
        with (
            tempfile.TemporaryDirectory() as folder,
            swarm(Path(folder), args.mib * MIB, args.mib_per_s * MIB, tuning={}) as workers,
        ):
            play(workers)
            figures[name] = workers.ratio
        print(f"  {name}: {time.monotonic() - begun_at:.1f} s in all", file=sys.stderr)
    for name, ratio in figures.items():
        print(f"{name} {ratio:.4f}")


if __name__ == "__main__":
    main()
