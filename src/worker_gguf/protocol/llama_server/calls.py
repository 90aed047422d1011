"""Parsed requests of llama-server's routes: those of other dialects, with the form of the answer."""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.protocol.calls import CompletionCall, InfillCall

__all__ = ["AnswerForm", "NativeCompletion", "NativeInfill"]


class AnswerForm(Struct, frozen=True):
    """What an answer has. `fields` are the paths of those that are wanted; without any, all are."""

    has_tokens: bool = False
    has_timings: bool = False
    fields: tuple[str, ...] = ()


class NativeCompletion(CompletionCall, frozen=True):
    """A parsed body of POST /completion."""

    form: AnswerForm = AnswerForm()


class NativeInfill(InfillCall, frozen=True):
    """A parsed body of POST /infill."""

    form: AnswerForm = AnswerForm()
