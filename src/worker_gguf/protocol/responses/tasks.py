"""What the routes of the Responses API do."""

from __future__ import annotations

from typing import Any, Final

from worker_gguf.protocol.calls import InspectionCall
from worker_gguf.protocol.responses.bodies import InputTokensBody, ResponsesBody
from worker_gguf.protocol.responses.rendering import render_response
from worker_gguf.protocol.responses.requests import parse_input_tokens, parse_response
from worker_gguf.protocol.route import Generation, Inspection, Inspector, n_prompt_tokens

__all__ = ["INPUT_TOKENS", "RESPONSES"]


def _count(call: InspectionCall, inspector: Inspector) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": n_prompt_tokens(call, inspector)}


RESPONSES: Final = Generation("resp_", ResponsesBody, parse_response, render_response)
INPUT_TOKENS: Final = Inspection(InputTokensBody, parse_input_tokens, _count, ("completion",))
