"""An engine process. The worker process starts it with a socket as descriptor 3 and sends it commands."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time

began_s = time.perf_counter()

from worker_gguf import interpreter  # noqa: E402 - after the time at which the imports begin

interpreter.for_the_start()

from worker_gguf.errors import WorkerError  # noqa: E402
from worker_gguf.link.channel import Channel, ChannelClosed  # noqa: E402
from worker_gguf.link.errors import report_of  # noqa: E402
from worker_gguf.link.messages import Command, Failed  # noqa: E402

_SOCKET = 3


def main() -> int:
    # A terminal or a platform sends these to all processes. The worker process ends this one in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sock = socket.socket(fileno=os.dup(_SOCKET))  # a copy that no child of this process inherits
    os.close(_SOCKET)
    threading.Thread(target=_end_with_worker, args=(sock.fileno(),), name="lifeline", daemon=True).start()
    channel: Channel[Command] = Channel(sock, Command)
    try:
        _serve(channel)
    except ChannelClosed:
        pass  # the worker process has ended
    except BaseException:
        logging.getLogger(__name__).exception("the engine process failed")
        return 1
    return 0


def _serve(channel: Channel[Command]) -> None:
    try:
        from worker_gguf.engine_process.server import Server
    except WorkerError as error:  # llama.cpp cannot be loaded on this machine
        channel.receive()
        channel.send(Failed(error=report_of(error)))
        return
    Server(channel, began_s).run()


def _end_with_worker(fd: int) -> None:
    """End this process when the worker process has ended, even during a computation that never returns."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the system frees everything at once, and no destructor of a library can hang
