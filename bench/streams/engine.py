"""An engine process that computes nothing: it repeats the tokens of each prompt. For `bench.streams`.

It speaks the messages of `link` over the socket of a real engine process. Each step has one token for each stream.
"""

import os
import socket
import time
from contextlib import suppress

from worker_gguf.engine.machine import Machine
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import Limits
from worker_gguf.link.channel import Channel, ChannelClosed
from worker_gguf.link.messages import (
    Add,
    Command,
    ContextOpened,
    Ending,
    Finish,
    Found,
    LoadModel,
    Look,
    ModelLoaded,
    OpenContext,
    Report,
    Serve,
    Step,
    Stop,
)

INTERVAL = "BENCH_STREAMS_INTERVAL_S"
_SOCKET = 3
_N_CTX = 1 << 20


class Engine:
    """Answers the commands of a start, and then sends one step each `interval_s` while requests are open."""

    def __init__(self, channel: Channel[Command], interval_s: float) -> None:
        self._channel = channel
        self._interval_s = interval_s
        self._open: dict[int, GenerationRequest] = {}
        self._n_drawn: dict[int, int] = {}

    def run(self) -> None:
        """Return at Stop. Raises ChannelClosed when the worker process ends."""
        while not isinstance(command := self._channel.receive(), Stop):
            assert command is not None
            if isinstance(command, Serve):
                self._serve()
                return
            self._channel.send(answer(command))

    def _serve(self) -> None:
        next_s = time.monotonic()
        while True:
            admitted: list[tuple[int, int]] = []
            while (command := self._channel.receive(block=not self._open)) is not None:
                match command:
                    case Add(number, request):
                        self._open[number], self._n_drawn[number] = request, 0
                        admitted.append((number, 0))
                    case Finish(number):
                        self._open.pop(number, None)
                    case _:
                        return
            self._channel.send(self._step(admitted))
            next_s = max(next_s + self._interval_s, time.monotonic())
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _step(self, admitted: list[tuple[int, int]]) -> Step:
        now_s = time.monotonic()
        numbers, tokens, endings = list(self._open), [], []
        for number, request in list(self._open.items()):
            tokens.append(request.prompt[self._n_drawn[number] % len(request.prompt)])
            self._n_drawn[number] += 1
            if self._n_drawn[number] == request.max_tokens:
                endings.append(Ending(number, "length", self._n_drawn[number], 0))
                del self._open[number]
        return Step(
            time_s=now_s,
            admitted_s=now_s,
            numbers=numbers,
            tokens=tokens,
            logprobs=[],
            admitted=admitted,
            endings=endings,
            busy_slots=len(self._open),
            waiting=0,
            held_tokens=0,
            n_batch_tokens=len(tokens),
            schedule_seconds=0.0,
            decode_seconds=0.0,
            sample_seconds=0.0,
        )


def answer(command: Command) -> Report:
    match command:
        case Look():
            now_s = time.perf_counter()
            return Found(Machine(n_cores=2, free_bytes=8 << 30), gpu_backends=(), began_s=now_s, imported_s=now_s)
        case LoadModel():
            return ModelLoaded(n_ctx_train=_N_CTX, n_params=1, offloaded=None, taken_bytes=0)
        case OpenContext():
            n_slots = command.params.n_parallel
            limits = Limits(n_slots, _N_CTX, n_slots * _N_CTX, n_batch=n_slots)
            return ContextOpened(limits, time.perf_counter(), first_logprob=-1.0, first_error=None)
    raise RuntimeError(f"{type(command).__name__} came before Serve")


def main() -> None:
    channel: Channel[Command] = Channel(socket.socket(fileno=_SOCKET), Command)
    with suppress(ChannelClosed):  # the worker process has ended
        Engine(channel, float(os.environ[INTERVAL])).run()


if __name__ == "__main__":
    main()
