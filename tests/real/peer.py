"""The two references for a model's answers: llama.cpp's own server, and a bare loop over its library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import llama_cpp
import numpy as np

__all__ = ["Peer", "bare_loop"]


class Peer:
    """llama-server, asked by token ids."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=120, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def greedy(self, tokens: Sequence[int], n: int, adapters: Sequence[tuple[int, float]] = ()) -> list[int]:
        """Without `adapters`, all those of the server are used."""
        body: dict[str, Any] = {
            "prompt": list(tokens),
            "n_predict": n,
            "temperature": 0,
            "return_tokens": True,
            "cache_prompt": False,
        }
        if adapters:
            body["lora"] = [{"id": number, "scale": scale} for number, scale in adapters]
        found: list[int] = self.post("/completion", body)["tokens"]
        return found

    def first_logprobs(self, tokens: Sequence[int], n: int) -> dict[int, float]:
        """Log-probabilities of the likeliest first tokens, before any sampler."""
        body = {"prompt": list(tokens), "n_predict": 1, "temperature": 0, "n_probs": n, "cache_prompt": False}
        (first,) = self.post("/completion", body)["completion_probabilities"]
        return {int(entry["id"]): float(entry["logprob"]) for entry in first["top_logprobs"]}

    def chat_prompt(self, messages: Sequence[dict[str, Any]]) -> str:
        text: str = self.post("/apply-template", {"messages": list(messages)})["prompt"]
        return text

    def tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": True}
        tokens: list[int] = self.post("/tokenize", body)["tokens"]
        return tokens

    def ranked(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return the score of each document."""
        results = self.post("/v1/rerank", {"query": query, "documents": list(documents)})["results"]
        scores = {result["index"]: float(result["relevance_score"]) for result in results}
        return [scores[index] for index in range(len(documents))]

    def complete(self, text: str, n: int) -> str:
        body = {"prompt": text, "max_tokens": n, "temperature": 0, "cache_prompt": False}
        answer: str = self.post("/v1/completions", body)["choices"][0]["text"]
        return answer

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of any route. Raises an error for another status than 200."""
        reply = self._client.post(path, json=body)
        reply.raise_for_status()
        answer: dict[str, Any] = reply.json()
        return answer


def bare_loop(path: Path, prompts: Sequence[Sequence[int]], n: int, n_ctx: int) -> list[list[int]]:
    """Decode each prompt alone and take the largest logit `n` times, with nothing but llama.cpp's functions."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, False
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocabulary)
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx, context_params.n_threads, context_params.n_threads_batch = n_ctx, 2, 2
    context = llama_cpp.llama_init_from_model(model, context_params)
    answers = []
    for prompt in prompts:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        answer: list[int] = []
        feed = list(prompt)
        while len(answer) < n:
            tokens = (llama_cpp.llama_token * len(feed))(*feed)
            assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(feed))) == 0
            address = ctypes.addressof(llama_cpp.llama_get_logits_ith(context, -1).contents)
            row = np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address))
            token = int(row.argmax())
            if llama_cpp.llama_vocab_is_eog(vocabulary, token):
                break
            answer.append(token)
            feed = [token]
        answers.append(answer)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return answers
