"""Makes the guides of requests for one model."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from worker_gguf.constraints.guide import Guide
from worker_gguf.constraints.matcher import Grammars
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.engine.runner import SpecialTokens
from worker_gguf.llama.model import Model

__all__ = ["Guides"]


class Guides:
    """Reads the vocabulary for the first request that needs a guide. Thread-safe."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._special = SpecialTokens()
        self._grammars: Grammars | None = None
        self._prepared: dict[str, Guide] = {}
        self._lock = threading.Lock()

    def adopt(self, special: SpecialTokens) -> None:
        """Use these end-of-generation tokens. Call it before the first request."""
        self._special = special

    def prepare(self, request: GenerationRequest) -> None:
        """Make the guide of a request, which compiles its grammar, and keep it until `guide` or `forget`.

        Raises InvalidRequest.
        """
        if request.is_guided:
            self._prepared[request.id] = self._make(request)

    def guide(self, request: GenerationRequest, history: Sequence[int]) -> Guide | None:
        """Return the guide of a request, or None if it needs none. `history` has all its tokens so far.

        Raises InvalidRequest.
        """
        if not request.is_guided:
            return None
        guide = self._prepared.pop(request.id, None) or self._make(request)
        for token in history[len(request.prompt) :]:
            guide.accept(token)
        return guide

    def forget(self, request_id: str) -> None:
        """Drop the guide of a request that will not run."""
        self._prepared.pop(request_id, None)

    def read(self) -> Grammars:
        """Return what compiles grammars for this model. The first call reads the vocabulary."""
        with self._lock:
            if self._grammars is None:
                self._grammars = Grammars(self._model.vocabulary.table(self._special.eog))
            return self._grammars

    def _make(self, request: GenerationRequest) -> Guide:
        return Guide(self.read(), request, forces=request.top_logprobs is None)
