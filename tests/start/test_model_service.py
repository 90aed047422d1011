"""Tests of the description of a loaded model."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.model_card import card_of, is_private, with_special_texts
from worker_gguf.start.model_service import _fingerprint
from worker_gguf.worker import Worker


def test_the_fingerprint_changes_only_with_facts_that_change_answers() -> None:
    settings = Settings(model="embedded", n_threads=1, n_ctx=512)
    worker = Worker(settings, Metrics("test"))
    worker.start()
    asyncio.run(worker.wait_ready())
    loaded = worker._host
    assert isinstance(loaded, LoadedModel)
    card = loaded.service.card
    header, local, plan = loaded.header, loaded.local, loaded.plan
    worker.stop()
    # What the header says of a model that is not loaded is what a loaded one has.
    unloaded = with_special_texts(card_of(settings, local, header), local, header)
    assert (card.chat_template, card.bos_text, card.eos_text) == (
        header.chat_template,
        "<|begin_of_text|>",
        "<|eot_id|>",
    )
    assert (unloaded.chat_template, unloaded.bos_text, unloaded.eos_text) == (
        card.chat_template,
        card.bos_text,
        card.eos_text,
    )
    first = _fingerprint(settings, header, local, plan, ())
    # How much memory was free at this start is no part of it.
    assert _fingerprint(settings, header, local, replace(plan, devices=(), reasons={}), ()) == first
    assert _fingerprint(settings, header, local, replace(plan, n_parallel=plan.n_parallel + 1), ()) != first
    assert _fingerprint(settings, header, local, plan, (local,)) != first


def test_clients_see_no_path_and_no_address() -> None:
    assert [name for name in ("a/b", "/a", "./a", "~/a", "https://h/x?sig=1", "x.gguf") if is_private(name)] == [
        "/a",
        "./a",
        "~/a",
        "https://h/x?sig=1",
    ]
