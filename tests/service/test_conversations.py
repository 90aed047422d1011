"""Tests of waiting for the markup of a template. What is rendered is tested through Prompts and Service."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.service.scripted import Letters, ScriptedMarkup
from worker_gguf.protocol.calls import ChatCall, Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.markups import Markups, TemplateMarkup
from worker_gguf.template.chat_template import ChatTemplates


class Examination:
    """Conversations whose template is examined when the test allows it."""

    def __init__(self) -> None:
        self._may_find = threading.Event()
        self.conversations = Conversations(ChatTemplates.compile(None), Markups(Letters(), self._new_markup))

    def _new_markup(self, *_: object) -> TemplateMarkup:
        assert self._may_find.wait(60)
        return ScriptedMarkup()

    def allow(self) -> None:
        self._may_find.set()


def chat() -> ChatCall:
    return parse_chat({"messages": [{"role": "user", "content": "a"}]}, Defaults())


def test_chats_that_come_before_the_template_is_examined_go_on_in_their_order() -> None:
    examination, went_on = Examination(), []

    async def wait(number: int) -> None:
        await examination.conversations.examined(chat())
        went_on.append(number)

    async def run() -> None:
        examination.conversations.examine_templates()
        waiting = [asyncio.create_task(wait(number)) for number in range(100)]
        await asyncio.sleep(0)
        examination.allow()
        await asyncio.gather(*waiting)

    asyncio.run(run())
    assert went_on == list(range(100))


def test_a_chat_that_comes_when_the_examination_ends_goes_after_those_that_waited() -> None:
    examination, went_on = Examination(), []
    conversations = examination.conversations

    async def wait(number: int) -> None:
        await conversations.examined(chat())
        went_on.append(number)

    async def run() -> None:
        waiting = asyncio.create_task(wait(0))
        await asyncio.sleep(0)
        examination.allow()
        # The examination ends in its thread while this loop runs nothing else.
        conversations._markups.find(conversations._templates.default).result(60)
        await asyncio.gather(waiting, asyncio.create_task(wait(1)))

    asyncio.run(run())
    assert went_on == [0, 1]


def test_a_chat_that_is_cancelled_ends_the_examination_for_no_other() -> None:
    examination = Examination()

    async def run() -> None:
        first = asyncio.create_task(examination.conversations.examined(chat()))
        second = asyncio.create_task(examination.conversations.examined(chat()))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        examination.allow()
        await second

    asyncio.run(run())
