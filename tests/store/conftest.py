"""The stand-in for the Hub, for the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_hub import FakeHub


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[FakeHub]:
    """It has the test module's CONTENT as the model org/repo:Q4_K_M."""
    with FakeHub() as hub:
        hub.repo("org/repo", {"m-Q4_K_M.gguf": request.module.CONTENT})
        yield hub
    from huggingface_hub import close_session

    close_session()
