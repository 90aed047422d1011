"""Server processes under measurement: started on a free port, awaited, measured, ended by their own process id."""

import http.client
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

READY_TIMEOUT_S = 180
STOP_TIMEOUT_S = 20


def peak_memory_mb(pid: int | str) -> float:
    """Return the most memory the process and its children ever had resident, mapped pages of the model file among it.

    The peaks of all processes are added up, and pages that they share count for each.
    """
    return sum(_megabytes(Path(f"/proc/{process}/status"), "VmHWM") for process in family(pid))


def memory_mb(pid: int, kind: str = "Rss") -> float:
    """Return the memory of the process and its children now. `kind` is a name in /proc/pid/smaps_rollup.

    Rss counts pages that they share for each of them. Pss would divide such a page by the number of processes that
    share it, those of others among them, so it changes when another worker on the machine starts or ends.
    """
    return sum(_megabytes(Path(f"/proc/{process}/smaps_rollup"), kind) for process in family(pid))


def family(pid: int | str) -> list[int | str]:
    """Return the process and the children that any of its threads started."""
    if pid == "self":
        return [pid]
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for some in children for child in some.read_text().split())]


def _megabytes(table: Path, name: str) -> float:
    for line in table.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"{table} has no {name}")


def busy_share(seconds: float = 1.0) -> float:
    """Return the share of the processor that is in use by whatever runs now, over all cores."""

    def ticks() -> tuple[int, int]:
        counts = [int(count) for count in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # idle and waiting for a disk

    total, idle = ticks()
    time.sleep(seconds)
    total_after, idle_after = ticks()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def fill_command(template: str, model: Path, port: int, n_parallel: int, n_ctx: int) -> list[str]:
    """Return the words of a server's command, with its placeholders replaced."""
    filled = template.format(
        model=shlex.quote(str(model)), port=port, n_parallel=n_parallel, n_ctx=n_ctx, n_ctx_total=n_ctx * n_parallel
    )
    return shlex.split(filled)


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    ready_path: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    *,
    poll_s: float = 0.05,
) -> Iterator[int]:
    """Run a server while the block runs and give its process id once `ready_path` answers 200."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
        )
    try:
        wait_until_ready(server, port, ready_path, log, poll_s)
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], port: int, path: str, log: Path, poll_s: float) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode} before it was ready:\n{tail(log)}")
        if status(port, path) == 200:
            return
        time.sleep(poll_s)
    raise RuntimeError(f"the server was not ready within {READY_TIMEOUT_S} s:\n{tail(log)}")


def status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def tail(log: Path, n_lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-n_lines:])
