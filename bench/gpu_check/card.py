"""The GPUs of this machine, as nvidia-smi reports them. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple

_PLACES = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/lib/wsl/lib")
_FIELDS = "name,driver_version,memory.total,memory.used"
_TIMEOUT_S = 60


class NoCard(Exception):
    """There is no GPU that can be used. The message is a sentence."""


class Cards(NamedTuple):
    """All GPUs of the machine together. Memory is in MiB."""

    names: tuple[str, ...]
    driver: str
    total_mib: int
    used_mib: int

    @property
    def slug(self) -> str:
        """Return the name for a file, for example `nvidia-h200` or `2x-nvidia-l4`."""
        name = re.sub(r"[^a-z0-9]+", "-", self.names[0].lower()).strip("-")
        return name if len(self.names) == 1 else f"{len(self.names)}x-{name}"


def read_cards() -> Cards:
    """Ask nvidia-smi for the GPUs. Raises NoCard."""
    program = shutil.which("nvidia-smi") or next(
        filter(None, (shutil.which("nvidia-smi", path=p) for p in _PLACES)), ""
    )
    if not program:
        raise NoCard("This machine has no GPU that can be used: nvidia-smi, which comes with the driver, is missing.")
    command = [program, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCard(f"This machine has no GPU that can be used: nvidia-smi failed ({error}).") from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode or not said:
        first = said.splitlines()[0] if said else f"exit code {done.returncode}"
        raise NoCard(f"This machine has no GPU that can be used: nvidia-smi says: {first}")
    return _parse(done.stdout)


def _parse(text: str) -> Cards:
    rows = [[field.strip() for field in line.split(",")] for line in text.strip().splitlines()]
    try:
        total, used = sum(int(row[2]) for row in rows), sum(int(row[3]) for row in rows)
        return Cards(tuple(row[0] for row in rows), rows[0][1], total, used)
    except (IndexError, ValueError):
        raise NoCard(f"The answer of nvidia-smi cannot be read: {text.strip()[:200]!r}") from None
