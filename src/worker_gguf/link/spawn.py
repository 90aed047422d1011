"""Starts an engine process. Imports almost nothing, because this is the first thing that a cold start does."""

from __future__ import annotations

import os
import socket
import sys
from typing import NamedTuple

from worker_gguf import environment

__all__ = ["Spawned", "spawn"]

_MODULE = "worker_gguf.engine_process"


class Spawned(NamedTuple):
    """A process that has just been started, and our end of its socket."""

    pid: int
    socket: socket.socket


def spawn() -> Spawned:
    """Start an engine process, which begins to import at once. It ends when this process ends, however that happens.

    It has a process group of its own: signals of a terminal reach only this process, which ends the other one in order.
    """
    # -P: a file of the current folder must not stand in for a module, unless this process takes modules from it, too.
    takes_from_folder = bool({"", os.getcwd()} & set(sys.path))  # noqa: PTH109 - pathlib is not imported yet
    command = [sys.executable, *([] if takes_from_folder else ["-P"]), "-m", _MODULE]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
        pid = os.posix_spawn(sys.executable, command, environment.inherited(), file_actions=actions, setpgroup=0)
    return Spawned(pid, ours)
