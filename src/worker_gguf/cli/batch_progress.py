"""The progress of `worker-gguf batch` on standard error: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

    from worker_gguf.batch.dispatch import Result
    from worker_gguf.batch.tally import Tally

__all__ = ["BatchProgress", "duration_text"]

_LINE_EVERY_S = 10.0


class BatchProgress:
    """A context manager. Times are in seconds, from one clock."""

    def __init__(self, tally: Tally, output: Path, stream: TextIO | None = None) -> None:
        self._tally = tally
        self._output = output
        self._stream = stream or sys.stderr
        self._bar: tqdm[None] | None = None
        self._last_line_s = self._now_s = tally.started_s

    def begin(self, now_s: float) -> None:
        """Start the clock: the model is loaded."""
        tally = self._tally
        tally.started_s = self._last_line_s = self._now_s = now_s
        before = f", {tally.n_before} of them answered before" if tally.n_before else ""
        self.say(f"{tally.n_requests} requests{before}. The results go to {self._output}.")
        if self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=tally.n_requests,
                initial=tally.n_before,
                unit="request",
                file=self._stream,
                smoothing=0,  # answers come in bursts, so only the mean rate is steady enough for an estimate
                dynamic_ncols=True,
            )

    def add(self, result: Result, now_s: float) -> None:
        """Count a result that is in the output, and show it."""
        tally = self._tally
        tally.add(result)
        self._now_s = now_s
        if self._bar is not None:
            self._bar.set_postfix({"errors": tally.n_failed}, refresh=False)
            self._bar.update()
        elif now_s - self._last_line_s >= _LINE_EVERY_S:
            self._last_line_s = now_s
            left_s = tally.seconds_left(now_s) or 0.0
            rate = tally.n_done / (now_s - tally.started_s)
            share = tally.n_answered / tally.n_requests
            self.say(
                f"{tally.n_answered} of {tally.n_requests} answered ({share:.0%}), {tally.n_failed} errors, "
                f"{rate:.1f} requests/s, about {duration_text(left_s)} left"
            )

    def say(self, text: str) -> None:
        """Write a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def finish(self, n_answered: int) -> None:
        """Write the counts of the run. `n_answered` requests have a result in the output."""
        self._close_bar()
        tally = self._tally
        seconds = self._now_s - tally.started_s
        self.say(f"{n_answered} of {tally.n_requests} requests have a result in {self._output}.")
        if tally.n_done:
            self.say(
                f"This run: {tally.n_done} results, {tally.n_failed} of them errors, {tally.n_tokens} tokens in "
                f"{duration_text(seconds)} ({tally.n_tokens / max(seconds, 1e-3):.1f} tokens/s)."
            )
        if n_answered < tally.n_requests:
            self.say("Run the same command again to go on.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def duration_text(seconds: float) -> str:
    """Return a duration for people: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
