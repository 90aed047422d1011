"""BERT in numpy: the tokens of a text to its vector, from the weights as they were published and not from a GGUF."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.minilm import read_weights

__all__ = ["Bert"]

Rows = NDArray[np.float64]


class Bert:
    """An encoder of BERT's shape. Its vectors are the mean over all tokens, of length 1, as sentence-transformers'."""

    def __init__(self, folder: Path) -> None:
        """`folder` has config.json and model.safetensors."""
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self._weights = {
            name: values.astype(np.float64) for name, values in read_weights(folder / "model.safetensors").items()
        }
        self._n_layers: int = config["num_hidden_layers"]
        self._n_heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]

    def vector(self, tokens: Sequence[int]) -> Rows:
        """Return the vector of a text, with its special tokens."""
        rows = self._embedded(tokens)
        for layer in range(self._n_layers):
            rows = self._layer(f"encoder.layer.{layer}", rows)
        mean: Rows = rows.mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _embedded(self, tokens: Sequence[int]) -> Rows:
        rows = self._weights["embeddings.word_embeddings.weight"][list(tokens)]
        rows = rows + self._weights["embeddings.position_embeddings.weight"][: len(tokens)]
        rows = rows + self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._normed("embeddings.LayerNorm", rows)

    def _layer(self, name: str, rows: Rows) -> Rows:
        attended = self._linear(f"{name}.attention.output.dense", self._attended(f"{name}.attention.self", rows))
        rows = self._normed(f"{name}.attention.output.LayerNorm", rows + attended)
        inner = _gelu(self._linear(f"{name}.intermediate.dense", rows))
        return self._normed(f"{name}.output.LayerNorm", rows + self._linear(f"{name}.output.dense", inner))

    def _attended(self, name: str, rows: Rows) -> Rows:
        query, key, value = (self._heads(self._linear(f"{name}.{part}", rows)) for part in ("query", "key", "value"))
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        joined: Rows = (weights @ value).transpose(1, 0, 2).reshape(len(rows), -1)
        return joined

    def _heads(self, rows: Rows) -> Rows:
        return rows.reshape(len(rows), self._n_heads, -1).transpose(1, 0, 2)

    def _linear(self, name: str, rows: Rows) -> Rows:
        product: Rows = rows @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _normed(self, name: str, rows: Rows) -> Rows:
        centred = rows - rows.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._epsilon)
        normed: Rows = centred / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normed


def _gelu(values: Rows) -> Rows:
    return values * (1 + _erf(values / math.sqrt(2))) / 2


def _erf(values: Rows) -> Rows:
    """Return the error function, within 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(values))
    polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf: Rows = np.sign(values) * (1 - polynomial * np.exp(-(values**2)))
    return erf
