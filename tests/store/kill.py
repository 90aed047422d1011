"""Kills workers at random moments of a download: `make kill-test`, or `python -m tests.store.kill --moments 200`."""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.store.swarm import Swarm, swarm

SIZE_BYTES = 12 * 2**20
SECONDS = 3.0
"""How long the line takes for the file."""
KILLS_A_ROUND = 6


@dataclass(frozen=True, slots=True)
class Tally:
    kills: int
    downloads: int
    n_leaders: int
    most_ratio: float
    mean_ratio: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"kill test: {self.kills} kills ({self.n_leaders} of the leader), "
            f"{self.downloads} downloads by 3 workers: file whole, once, verified; "
            f"bytes served / size {self.mean_ratio:.3f} on average, "
            f"{self.most_ratio:.3f} at most; {self.seconds:.0f} s"
        )


def run(moments: int, folder: Path, seed: int) -> Tally:
    """Kill `moments` times; raise where a download ends otherwise than whole, once and verified."""
    chance = random.Random(seed)
    begun_at, kills, n_leaders, ratios = time.monotonic(), 0, 0, []
    while kills < moments:
        cache = folder / "volume"
        with swarm(cache, SIZE_BYTES, SIZE_BYTES / SECONDS) as workers:
            workers.start(3)
            for _ in range(min(KILLS_A_ROUND, moments - kills)):
                time.sleep(chance.uniform(0.0, SECONDS / 3))
                if (victim := _victim(workers, chance)) is None:
                    break  # all are through
                n_leaders += _leads(workers, victim)
                workers.kill(victim)
                workers.start()
                kills += 1
            workers.finish()
            ratios.append(workers.ratio)
        shutil.rmtree(cache)
        print(f"  {kills} of {moments}", file=sys.stderr, flush=True)
    mean = sum(ratios) / len(ratios)
    return Tally(kills, len(ratios), n_leaders, max(ratios), mean, time.monotonic() - begun_at)


def _victim(workers: Swarm, chance: random.Random) -> subprocess.Popen[str] | None:
    """Any worker that still runs; every other time the one that downloads."""
    running = [worker for worker in workers.workers if worker.poll() is None]
    leaders = [worker for worker in running if _leads(workers, worker)]
    if leaders and chance.random() < 0.5:
        return leaders[0]
    return chance.choice(running) if running else None


def _leads(workers: Swarm, worker: subprocess.Popen[str]) -> bool:
    try:
        return f'"pid": {worker.pid}}}' in workers.lease.read_text()
    except OSError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    drawn = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"  seed {drawn}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        print(run(args.moments, Path(name), drawn))
