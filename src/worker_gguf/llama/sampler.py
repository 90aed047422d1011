"""Draws the next token of one sequence from its logits. Looks only at the tokens that can be drawn."""

from __future__ import annotations

import ctypes
import math
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Sequence, Set

import numpy as np

from worker_gguf.engine.request import GenerationRequest, SamplingParams
from worker_gguf.errors import EngineFailed
from worker_gguf.llama.bindings import llama_cpp
from worker_gguf.llama.candidates import FOLD, Candidates, Floats, Largest, Level, Near, shortlists
from worker_gguf.llama.chain import ChainFactory, dry_is_active, penalties_are_active, resolve_windows
from worker_gguf.llama.ngrams import Ngrams
from worker_gguf.llama.own_samplers import CANDIDATE

__all__ = ["NOTHING_TO_DRAW", "Scratch", "SequenceSampler", "draws_greedily", "shortlist_rule"]

_MAX_SHORTLIST = 2048
_FEW = 8
# llama.cpp compares probabilities, whose rounding may differ from that of logits.
_SLACK = 1e-3
NOTHING_TO_DRAW = (
    "No token could be drawn: the samplers and biases of the request excluded all, or the model's output is not finite."
)
# A shortlist made before these samplers is still valid after them. Tokens with penalties are always added to it.
_NEUTRAL_BEFORE_SHORTLIST = {"penalties", "dry", "adaptive_p"}


class Scratch:
    """A buffer of candidates that llama.cpp gets by address. One for each sampling thread."""

    def __init__(self, n_vocab: int) -> None:
        self._rows = np.zeros(n_vocab, CANDIDATE)
        self._ids, self._logits = self._rows["id"], self._rows["logit"]
        self._all = np.arange(n_vocab, dtype=np.int32)
        self._start = ctypes.cast(self._rows.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        self.array = llama_cpp.llama_token_data_array(data=self._start, size=0, selected=-1, sorted=False)

    def fill(self, logits: Floats, found: Candidates | None) -> llama_cpp.llama_token_data_array:
        """Write the candidates, or every token of the row `logits`, into the buffer and return it."""
        ids, values = found or (self._all, logits)
        n = ids.shape[0]
        self._ids[:n] = ids
        self._logits[:n] = values
        # Reset this pointer each time: xtc moves it forward to drop the most likely tokens.
        self.array.data = self._start
        self.array.size = n
        self.array.selected = -1
        self.array.sorted = False
        return self.array

    def selected_token(self) -> int:
        selected = self.array.selected
        if not 0 <= selected < self.array.size:
            raise EngineFailed(NOTHING_TO_DRAW)
        return int(self.array.data[selected].id)


def _drawable(token: int, logits: Floats) -> int:
    """Check a selected token: the samplers select one even if all are banned. Raises EngineFailed."""
    if not math.isfinite(logits[token]):
        raise EngineFailed(NOTHING_TO_DRAW)
    return token


def draws_greedily(params: SamplingParams) -> bool:
    """Return whether the largest logit always wins: at temperature 0, unless a sampler may remove its token."""
    if params.temperature > 0 or "temperature" not in params.samplers or "infill" in params.samplers:
        return False
    return not (params.mirostat or params.xtc_probability > 0 or params.typical_p < 1 or params.adaptive_target >= 0)


def shortlist_rule(params: SamplingParams) -> tuple[str, float] | None:
    """Return a rule that reduces the candidates before the chain without changing its result, or None.

    ("top_k", k): only the k largest logits matter. ("min_p", d): only logits within d of the largest one matter.
    """
    if draws_greedily(params):
        return ("top_k", 1)
    if params.mirostat:
        return None
    distance: float | None = None
    scale = 1.0
    for name in params.samplers:
        if name == "top_k" and params.top_k > 0:
            return ("top_k", max(params.top_k, params.min_keep))
        if name == "temperature" and params.temperature > 0 and params.dynatemp_range <= 0:
            scale *= params.temperature
        elif name in ("min_p", "top_p") and (params.smoothing_factor > 0 or params.top_a > 0):
            break  # smoothing changes distances, and top_a, which follows top_p, needs all probabilities
        elif name == "min_p" and params.min_p > 0 and params.min_keep <= 1:
            # A cut by distance from the largest logit and a cut by rank commute, so a later top_k may still set the
            # rule.
            distance = -math.log(params.min_p) * scale if distance is None else distance
        elif name not in _NEUTRAL_BEFORE_SHORTLIST and _changes_candidates(name, params):
            break
    return None if distance is None else ("min_p", distance)


def _changes_candidates(name: str, params: SamplingParams) -> bool:
    """Return whether the sampler has an effect with these parameters."""
    off = {
        "top_k": params.top_k <= 0,
        "top_p": params.top_p >= 1,
        "min_p": params.min_p <= 0,
        "typ_p": params.typical_p >= 1,
        "top_n_sigma": params.top_n_sigma <= 0,
        "xtc": params.xtc_probability <= 0,
    }
    return not off.get(name, False)


class SequenceSampler:
    """The sampling state of one request: the sampler chain, the window of recent tokens, the banned tokens."""

    def __init__(
        self,
        request: GenerationRequest,
        factory: ChainFactory,
        n_ctx: int,
        banned: Iterable[int],
        *,
        searches: bool = True,
    ) -> None:
        """`banned` tokens are never drawn. Without `searches`, the chain sees all tokens.

        Raises EngineFailed if llama.cpp cannot create the chain.
        """
        params = resolve_windows(request.sampling, n_ctx)
        seed = secrets.randbits(32) if params.seed is None else params.seed & 0xFFFFFFFF
        self.is_greedy = draws_greedily(params)
        self._rule = shortlist_rule(params) if searches else None
        self._window = self._window_length(params)
        self._chain = factory.greedy(params) if self.is_greedy else factory.sampling(params, seed)
        self._ngrams = Ngrams(params.no_repeat_ngram_size) if params.no_repeat_ngram_size > 0 else None
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        self._banned = tuple(banned)
        self.level = Level()
        """Where the candidates of its rows were."""
        self._bias_ids = np.array([token for token, _ in params.logit_bias], np.int64)
        self._bias = np.array([bias for _, bias in params.logit_bias], np.float32)

    @property
    def takes_argmax(self) -> bool:
        """Only the largest logit decides, and no recent tokens count."""
        return self.is_greedy and self._window == 0

    @staticmethod
    def _window_length(params: SamplingParams) -> int:
        penalties = params.repeat_last_n if penalties_are_active(params) else 0
        return max(penalties, params.dry_penalty_last_n if dry_is_active(params) else 0)

    def remember(self, tokens: Iterable[int]) -> None:
        """Add the tokens so far, for the samplers that use them."""
        tokens = list(tokens)
        if self._ngrams is not None:
            self._ngrams.note(tokens)
        if self._window:
            for token in tokens[-self._window :]:
                self._chain.accept(token)
                self._note(token)

    def bias(self, logits: Floats, ban: Sequence[int]) -> None:
        """Write biases and bans into the logits (n_vocab,) in place.

        `ban` has tokens that are banned only this time.
        """
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias
        for tokens in (self._banned, ban):
            if len(tokens) <= _FEW:
                for token in tokens:  # faster than an array of indices, as long as they are few
                    logits[token] = -np.inf
            else:
                logits[np.asarray(tokens)] = -np.inf

    def wants(self, n_vocab: int, ahead: int = 0) -> Largest | Near | None:
        """Return the candidates that a row needs, or None if it needs all tokens, or only the largest logit.

        `ahead` is the number of tokens that will be drawn before it.
        """
        if self._rule is None or self.takes_argmax:
            return None
        kind, value = self._rule
        if kind == "min_p":
            return None if self._counts or (ahead and self._window) else Near(value + _SLACK)
        # A token that no penalty touches has at most k - 1 untouched ones above it, so its rank is at most k + the
        # number of touched ones.
        k = int(value) + len(self._counts) + (ahead if self._window else 0)
        return Largest(k) if k < min(_MAX_SHORTLIST, n_vocab // FOLD) else None

    def draw(self, logits: Floats, found: Candidates | None, scratch: Scratch, *, is_all: bool = False) -> int:
        """Draw a token from a row of biased logits (n_vocab,). `take` must follow, of this or another token.

        `found` are the candidates that it wants, if it does; or with `is_all`, the only tokens that may be drawn.
        Raises EngineFailed if there is none.
        """
        if self.takes_argmax:
            best = found.ids[found.logits.argmax()] if is_all and found is not None else logits.argmax()
            return _drawable(int(best), logits)
        self._chain.apply(scratch.fill(logits, found if is_all else self._completed(logits, found)))
        return _drawable(scratch.selected_token(), logits)

    def take(self, token: int) -> None:
        """Add the next token of the answer, for the samplers that use recent tokens or learn from them."""
        if self._ngrams is not None:
            self._ngrams.note((token,))
        if self.takes_argmax:
            return
        self._chain.accept(token)
        if self._window:
            self._note(token)

    def repeating(self) -> Set[int]:
        """Return the tokens that the tokens so far ban now. They change with each token."""
        return frozenset() if self._ngrams is None else self._ngrams.banned()

    def close(self) -> None:
        self._chain.close()

    def _note(self, token: int) -> None:
        self._recent.append(token)
        self._counts[token] += 1
        if len(self._recent) > self._window:
            old = self._recent.popleft()
            self._counts[old] -= 1
            if not self._counts[old]:
                del self._counts[old]

    def _completed(self, logits: Floats, found: Candidates | None) -> Candidates | None:
        """Add the tokens that a penalty may change. Returns None if the chain must see all tokens."""
        if found is None:
            return self._near(logits) if self._rule is not None and self._rule[0] == "min_p" and self._counts else None
        kind, value = self._rule or ("", 0.0)
        if not found.ids.size:
            return None  # no logit is a number
        if kind == "top_k" and found.ids.size < min(int(value) + len(self._counts), logits.shape[0]):
            return None  # a logit is not a number
        if not self._counts:
            return found
        ids = np.union1d(found.ids, np.fromiter(self._counts, np.int64, len(self._counts)))
        return Candidates(ids, logits[ids])

    def _near(self, logits: Floats) -> Candidates:
        """Return the tokens near the largest untouched logit, and the touched ones.

        These include all that the chain keeps, because the largest logit after penalties is at least as large.
        """
        assert self._rule is not None
        touched = np.fromiter(self._counts, np.int64, len(self._counts))
        kept = logits[touched]
        logits[touched] = -np.inf
        (found,) = shortlists(logits[None], [Near(self._rule[1] + _SLACK)])
        logits[touched] = kept
        ids = np.union1d(found.ids, touched)
        return Candidates(ids, logits[ids])
