"""The probe reads formats off templates of families that nobody has seen."""

from __future__ import annotations

import pytest

from tests.markup.invented_formats import invented_format, template_of
from tests.markup.specimen import specimen
from worker_gguf.markup.probe import derived_format
from worker_gguf.template.chat_template import ChatTemplate


@pytest.mark.parametrize("seed", range(200))
def test_the_probe_finds_the_format_that_a_template_writes(seed: int) -> None:
    form = invented_format(seed)
    source = template_of(form, seed)
    found = derived_format(source, ChatTemplate(source)._render)
    assert specimen(found) == specimen(form)
    assert not found.must_be_stated
