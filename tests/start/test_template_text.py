"""Tests of where the chat template of a model comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import TemplateError
from worker_gguf.gguf import read_headers
from worker_gguf.settings import Settings
from worker_gguf.start.template_text import read_template, template_text


def test_a_template_is_a_text_with_braces_or_the_path_of_one(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}")
    assert read_template(str(path)) == "{{ messages }}"
    assert read_template("{{ bos_token }}") == "{{ bos_token }}"
    with pytest.raises(TemplateError, match="nor a readable file"):
        read_template(str(tmp_path / "absent.jinja"))


def test_the_template_of_the_settings_comes_before_that_of_the_file(tmp_path: Path) -> None:
    header = read_headers((MODEL_PATH,), ())
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}")
    assert template_text(Settings(), header) == header.chat_template
    assert template_text(Settings(chat_template=str(path)), header) == "{{ messages }}"
    assert template_text(Settings(chat_template=str(tmp_path / "absent.jinja")), header) is None
