"""Finds the LoRA adapters with which a call is computed, among those of its model."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from worker_gguf.protocol.adapters import chosen_adapters
from worker_gguf.protocol.calls import ChatCall, CompletionCall, InfillCall, InspectionCall
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.pooling.calls import PoolingCall

__all__ = ["check_adapters", "with_adapters"]

AnyCall = TypeVar("AnyCall", bound=ChatCall | CompletionCall | InfillCall)


def with_adapters(card: ModelCard, call: AnyCall) -> tuple[ModelCard, AnyCall]:
    """Return the call with its adapters, and the card of what its answer names as the model. Raises InvalidRequest."""
    options = call.options
    meant, adapters = chosen_adapters(card, options.model, options.lora)
    return meant, replace(call, options=replace(options, adapters=adapters))


def check_adapters(
    card: ModelCard, call: ChatCall | CompletionCall | InfillCall | InspectionCall | PoolingCall
) -> None:
    """Raise InvalidRequest if a call names adapters that its model does not have."""
    match call:
        case ChatCall() | CompletionCall() | InfillCall():
            with_adapters(card, call)
        case InspectionCall(chat=ChatCall() as chat):
            with_adapters(card, chat)
