"""A MooseFS for the tests: master, chunk server and mounts in a network of their own, its data in a folder.

Runs inside the namespaces that `python -m tests.volume` makes, so that nothing of it is seen or left outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["MooseFs", "why_not"]

PROGRAMS: Final = ("mfsmaster", "mfschunkserver", "mfsmount", "unshare", "ip", "umount")
EMPTY: Final = Path("/var/lib/mfs/metadata.mfs.empty")
HOST: Final = "10.199.0.1"
"""An address of the loopback: a chunk server refuses to find its master on 127.0.0.1."""
PATIENCE_S: Final = 40.0
FREE_BYTES: Final = 1 << 30
"""A fresh volume has less until its chunk server is wholly known."""


def why_not() -> str | None:
    """Return why no MooseFS can be run here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        return (
            f"{', '.join(missing)} not installed (Debian: moosefs-master moosefs-chunkserver moosefs-client iproute2)"
        )
    if not EMPTY.is_file():
        return f"{EMPTY} is not there (Debian: moosefs-master)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is absent or not ours"
    probe = subprocess.run(["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"], check=False)
    return None if probe.returncode == 0 else "namespaces may not be made here (root is needed)"


class MooseFs:
    """Use as a context manager, in a network namespace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        for command in ("link set lo up", f"addr add {HOST}/32 dev lo"):
            subprocess.run(["ip", *command.split()], check=True)
        for name in ("master", "chunk", "disk"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(EMPTY, self.folder / "master" / "metadata.mfs")
        self._write("exports.cfg", "* / rw,alldirs,maproot=0")
        self._write("disks.cfg", str(self.folder / "disk"))
        own = "WORKING_USER = root\nWORKING_GROUP = root\nLOCK_MEMORY = 0\n"
        ports = "".join(f"{name}_LISTEN_HOST = {HOST}\n" for name in ("MATOML", "MATOCS", "MATOCL"))
        data, exports = f"DATA_PATH = {self.folder}/", f"EXPORTS_FILENAME = {self.folder}/exports.cfg\n"
        self._write("master.cfg", f"{own}{data}master\n{exports}TOPOLOGY_FILENAME = {self.folder}/none\n{ports}")
        disks = f"HDD_CONF_FILENAME = {self.folder}/disks.cfg\nHDD_LEAVE_SPACE_DEFAULT = 64MiB\n"
        master = f"MASTER_HOST = {HOST}\nMASTER_RECONNECTION_DELAY = 1\nCSSERV_LISTEN_HOST = {HOST}\n"
        self._write("chunk.cfg", f"{own}{data}chunk\n{disks}{master}")
        self.start_master()
        self._start("chunk", "mfschunkserver", "-c", str(self.folder / "chunk.cfg"), "-f", "start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for mount in self.folder.glob("mount*[0-9]"):
            subprocess.run(["umount", "-l", str(mount)], check=False, capture_output=True)
        for name in sorted(self._processes, key=lambda name: not name.startswith("mount")):
            self.stop(name)

    def mount(self, number: int) -> Path:
        """Mount the volume once more, as another machine does; return where."""
        name = f"mount{number}"
        at = self.folder / name
        at.mkdir(exist_ok=True)
        self._start(name, "mfsmount", "-f", "-H", HOST, str(at))
        self._wait(f"{name} has room", lambda: at.is_mount() and _free_bytes(at) > FREE_BYTES)
        return at

    def start_master(self) -> None:
        self._start("master", "mfsmaster", "-c", str(self.folder / "master.cfg"), "-f", "start")
        self._wait("the master listens", lambda: _listens(9421))

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End one of `master`, `chunk`, `mount0`…"""
        process = self._processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, name: str, *command: str) -> None:
        env = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"{text}\n")

    def _wait(self, what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            try:
                if is_so():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        logs = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-600:]}" for log in self.folder.glob("*.log"))
        raise TimeoutError(f"waited {patience_s:.0f} s until {what}\n{logs}")


def _free_bytes(at: Path) -> int:
    status = os.statvfs(at)
    return status.f_bavail * status.f_frsize


def _listens(port: int) -> bool:
    """Return whether a process listens in this network namespace."""
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)
