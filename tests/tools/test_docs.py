from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.docs import pages as docs
from worker_gguf import __version__, errors
from worker_gguf.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", docs.pages(), ids=lambda path: path.name)
def test_generated_pages_agree_with_the_code(path: Path) -> None:
    assert path.read_text("utf-8") == docs.pages()[path], "run `make docs`"


def test_every_setting_is_on_the_page_once() -> None:
    named = re.findall(r"^\| `([A-Z_0-9]+)`", docs.settings_page(), re.MULTILINE)
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_every_error_is_on_the_page_with_a_next_step() -> None:
    named = re.findall(r"^\| (?:&nbsp;)*`(\w+)`", docs.errors_page(), re.MULTILINE)
    assert sorted(named) == errors.__all__
    assert {error.__name__ for error in docs.NEXT_STEPS} == set(named)


def test_the_example_of_a_bad_value_is_true() -> None:
    with pytest.raises(errors.SettingsError) as caught:
        Settings.load({"N_CTX": "8k"})
    assert caught.value.message in docs.settings_page()


def test_check_says_which_page_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "DOCS", tmp_path / "docs")
    assert docs.main(["--check"]) == 1
    assert "docs/errors.md differs" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0


def test_the_version_is_the_top_heading_of_the_changelog() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == __version__
