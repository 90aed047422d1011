"""Tests of where the chat templates of a model come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_gguf.errors import TemplateError
from worker_gguf.start.template_text import read_template


def test_a_template_is_a_text_with_braces_or_the_path_of_one(tmp_path: Path) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text("{{ messages }}")
    assert read_template(str(path)) == "{{ messages }}"
    assert read_template("{{ bos_token }}") == "{{ bos_token }}"
    with pytest.raises(TemplateError, match="nor a readable file"):
        read_template(str(tmp_path / "absent.jinja"))
