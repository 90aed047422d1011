"""The properties of a model, the state of its slots, and its LoRA adapters."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf import __version__
from worker_gguf.errors import NotReady
from worker_gguf.protocol.llama_server.reports import sampling_settings
from worker_gguf.protocol.models import ModelCard
from worker_gguf.protocol.route import Listed, Listing

__all__ = ["LORA_ADAPTERS", "PROPS", "SLOTS"]


def _props(listed: Listed) -> dict[str, Any]:
    """Render the properties of a model. Of one that is not loaded, some are not known."""
    card, status = listed.named(listed.query.get("model") or None)
    return {
        "default_generation_settings": {
            "params": sampling_settings(card.defaults.sampling, card.defaults.max_tokens),
            "n_ctx": card.n_ctx,
        },
        "total_slots": card.n_parallel or 0,
        "model_alias": card.id,
        "model_path": _file_name(card),
        "model_ftype": card.quantization,
        "modalities": {"vision": "vision" in card.capabilities, "audio": False, "video": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": card.chat_template or "",
        "bos_token": card.bos_text or "",
        "eos_token": card.eos_text or "",
        "build_info": f"worker-gguf {__version__}",
        "is_sleeping": status is not None and status.value != "loaded",
    }


def _slots(listed: Listed) -> list[dict[str, Any]]:
    """Render the slots of a model: as many as can be used, of which as many are busy. It has nothing of requests.

    Which of them are busy is not known here, so the first ones are shown as busy.
    """
    name = listed.query.get("model") or None
    card, use = listed.named(name)[0], listed.slots(name)
    if listed.query.get("fail_on_no_slot") and use.n_busy >= use.n_slots:
        raise NotReady("All slots are busy. Try again later.")
    return [
        {"id": slot, "n_ctx": card.n_ctx, "speculative": False, "is_processing": slot < use.n_busy}
        for slot in range(use.n_slots)
    ]


def _lora_adapters(listed: Listed) -> list[dict[str, Any]]:
    """Render the adapters of a model. The scale of each is that of a request which names none, so it is 0."""
    card, _ = listed.named(listed.query.get("model") or None)
    model = card if card.parent is None else listed.named(card.parent)[0]
    return [
        {
            "id": number,
            "path": adapter.name,  # that of the file is private
            "scale": 0.0,
            "task_name": "",
            "prompt_prefix": "",
            "name": adapter.name,
            "default_scale": adapter.scale,
        }
        for number, adapter in enumerate(model.adapters)
    ]


def _file_name(card: ModelCard) -> str:
    """Return the name of the model's file, without its folder, which is private."""
    return next((alias for alias in card.aliases if alias.endswith(".gguf")), card.id)


PROPS: Final = Listing(_props)
SLOTS: Final = Listing(_slots)
LORA_ADAPTERS: Final = Listing(_lora_adapters)
