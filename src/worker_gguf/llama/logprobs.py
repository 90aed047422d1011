"""The log-probabilities that an answer shows: those of the model, before penalties, biases and samplers."""

from __future__ import annotations

import numpy as np

from worker_gguf.engine.batch import Logprob
from worker_gguf.llama.candidates import Floats, Ints, Largest, shortlists

__all__ = ["log_softmax", "logprob_of"]

_NO_TOKENS: Ints = np.empty(0, np.int64)


def log_softmax(logits: Floats) -> Floats:
    """Return the log-probabilities of a row of logits (n_vocab,)."""
    shifted: Floats = logits - logits.max()
    shifted -= np.log(np.exp(shifted).sum(dtype=np.float64)).astype(np.float32)
    return shifted


def logprob_of(token: int, log_probabilities: Floats, n_top: int, *, folds: bool) -> Logprob:
    """Return the log-probability of a drawn token, and the `n_top` most likely tokens with theirs.

    `folds` searches as `candidates.worth_folding` says.
    """
    best = _best(log_probabilities, n_top, folds)
    order = np.argsort(-log_probabilities[best], kind="stable")[:n_top]
    top = tuple((int(i), float(log_probabilities[i])) for i in best[order])
    return Logprob(token, float(log_probabilities[token]), top)


def _best(values: Floats, n: int, folds: bool) -> Ints:
    if n == 0:
        return _NO_TOKENS
    if folds:
        return shortlists(values[None], [Largest(n)])[0].ids
    return np.argpartition(values, -n)[-n:] if n < values.shape[0] else np.arange(values.shape[0])
