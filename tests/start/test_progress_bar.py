"""Tests of the progress bar."""

from __future__ import annotations

import io

from worker_gguf.start.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_shows_a_download_on_a_terminal() -> None:
    screen = Terminal()
    with ProgressBar("org/repo", screen) as bar:
        bar.show(0, 1 << 20)
        bar.show(1 << 19, 1 << 20)
        bar.show(1 << 20, 1 << 20)
    assert "org/repo" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_it_stays_away_where_there_is_no_terminal_or_nothing_to_fetch() -> None:
    for screen, done in ((io.StringIO(), 0), (Terminal(), 7)):
        with ProgressBar("org/repo", screen) as bar:
            bar.show(done, 7)
        assert screen.getvalue() == ""
