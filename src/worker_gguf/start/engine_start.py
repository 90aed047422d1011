"""Starts the engine process of a model: asks it for the machine, and lets it load the model and open its context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import EngineFailed, ModelInvalid
from worker_gguf.link.messages import (
    AdapterLoaded,
    ContextOpened,
    Found,
    Load,
    LoadAdapter,
    Look,
    ModelLoaded,
    OpenContext,
    Serve,
)
from worker_gguf.link.process import EngineDied, EngineProcess
from worker_gguf.link.spawn import Spawned

if TYPE_CHECKING:
    from worker_gguf.generation.engine import Revive

__all__ = ["EngineStart"]


class EngineStart:
    """The engine process of one model until it serves. A context manager that ends it, unless it was released."""

    def __init__(self, spawned: Spawned | None = None) -> None:
        """`spawned` is a process that has been started already. Without it, one is started when it is needed."""
        self._process = EngineProcess(spawned) if spawned else None

    def __enter__(self) -> EngineStart:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if (process := self._process) is not None:
            self._process = None
            process.kill()
            process.end()

    def begin(self) -> EngineProcess:
        """Start the process if it has not been started."""
        if self._process is None:
            self._process = EngineProcess()
        return self._process

    def release(self) -> EngineProcess:
        """Return the process, which this object no longer ends."""
        process, self._process = self.begin(), None
        return process

    def look(self) -> Found:
        """Return the state of the machine. Raises Unfit if llama.cpp cannot be loaded there."""
        try:
            return self.begin().ask(Look(), Found)
        except EngineDied as death:
            raise EngineFailed(str(death)) from None

    def machine(self) -> Machine:
        return self.look().machine

    def load(
        self,
        command: Load,
        fd: int | None,
        progress: Callable[[float], bool],
        opened: Callable[[], None],
    ) -> ModelLoaded:
        """Load a model. Raises ModelInvalid if the process dies, and the WorkerError of a failure."""
        process = self.begin()
        try:
            return process.ask(command, ModelLoaded, fd=fd, progress=progress, opened=opened)
        except EngineDied as death:
            raise ModelInvalid(str(death)) from None

    def load_adapter(self, command: LoadAdapter, fd: int | None) -> None:
        """Load an adapter of the loaded model. Raises as `load` does."""
        try:
            self.begin().ask(command, AdapterLoaded, fd=fd)
        except EngineDied as death:
            raise ModelInvalid(f"{death} It was loading the adapter {command.name} of LORA.") from None

    def open(self, command: OpenContext) -> ContextOpened:
        """Open the context. Raises the WorkerError of a failure.

        Raises EngineDied if the process dies. The model is gone with it, and the next call of `load` starts another.
        """
        try:
            return self.begin().ask(command, ContextOpened)
        except EngineDied:
            self._end()
            raise

    def again(self, loads: Sequence[Load], context: OpenContext, serve: Serve) -> Revive:
        """Return a function that brings up another process in the same way, from the files of the models.

        It raises EngineDied, or the WorkerError of a failure.
        """

        def revive(go_on: Callable[[], bool]) -> EngineProcess:
            with EngineStart() as other:
                process = other.begin()
                for load in loads:
                    answer = AdapterLoaded if isinstance(load, LoadAdapter) else ModelLoaded
                    process.ask(load, answer, progress=lambda _: go_on())
                process.ask(context, ContextOpened)
                process.send(serve)
                return other.release()

        return revive
