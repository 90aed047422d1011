"""Measures the time to read the header of a GGUF file with 128k tokens: `header_read_ms`, the median of many.

Both as a start meets it (a fresh process, what the reader imports included) and as one more file in a process. The
file lies in the page cache; nothing of it but its header is read.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import models

FRESH = """
import sys, time
from worker_gguf.gguf import read_header
start = time.perf_counter()
read_header(sys.argv[1])
print(1000 * (time.perf_counter() - start))
"""


def first_read_ms(path: Path, times: int) -> float:
    command = [sys.executable, "-c", FRESH, str(path)]
    runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for _ in range(times)]
    return statistics.median(float(run) for run in runs)


def read_ms(path: Path, times: int) -> float:
    from worker_gguf.gguf import read_header

    read_header(path)
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        read_header(path)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.header", description=__doc__)
    parser.add_argument("--model", type=Path, help="default: the small one of the benchmarks")
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=models.CACHE)
    args = parser.parse_args()
    path = args.model or models.ensure(models.SHAPES["small"], args.cache)
    print(f"first_header_read_ms {first_read_ms(path, max(3, args.times // 6)):.1f}")
    print(f"header_read_ms {read_ms(path, args.times):.1f}")


if __name__ == "__main__":
    main()
