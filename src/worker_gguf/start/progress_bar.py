"""A progress bar for downloads, shown only on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar:
    """A context manager. The bar appears when the first call of `show` reports missing bytes."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._bar: tqdm[None] | None = None

    def show(self, bytes_done: int, bytes_total: int) -> None:
        if self._bar is None:
            if bytes_done >= bytes_total or not self._stream.isatty():
                return
            from tqdm import tqdm

            self._bar = tqdm(
                total=bytes_total, desc=self._title, unit="B", unit_scale=True, unit_divisor=1024, file=self._stream
            )
        self._bar.update(bytes_done - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
