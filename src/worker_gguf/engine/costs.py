"""What a step costs in seconds, learned from the results of earlier steps. Reads no clock."""

from __future__ import annotations

from bisect import bisect_right

from worker_gguf.engine.batch import Batch, StepResult

__all__ = ["StepCosts"]

# The weight of the newest measurement. Single steps are disturbed by other processes, sometimes for ten times as long.
_NEWEST = 0.25
# The costs of prompts follow the latest tokens, about so many. A step of a few tokens says little about them, or
# nothing if the cost of the step's rows is unknown.
_LATEST_TOKENS = 4096
_LEAST_TOKENS = 64
# A measurement is forgotten after so many steps, because contexts grow and the machine changes.
_MOST_AGE = 1024


class StepCosts:
    """Estimates the duration of a step from its rows and its prompt tokens.

    A row is a token whose logits are computed: it passes through the output matrix, which a prompt token does not. The
    cost of rows is not linear. As long as the weights must be read from memory for each step, further rows cost little.
    """

    def __init__(self) -> None:
        self._rows: dict[int, float] = {}
        self._noted: dict[int, int] = {}
        self._known: list[int] = []
        self._n_steps = 0
        self.total_seconds = 0.0
        """The sum of all measured seconds."""
        self._prompts = _Line()

    def learn(self, batch: Batch, result: StepResult) -> None:
        """Learn from the result of a step."""
        if batch.chunks:
            n_rows = sum(chunk.n_outputs for chunk in batch.chunks)
            self.note(n_rows, batch.n_tokens - n_rows, result.decode_seconds + result.sample_seconds)

    def note(self, n_rows: int, n_prompt: int, seconds: float) -> None:
        """Learn from a step with `n_rows` rows and `n_prompt` further tokens of prompts."""
        self._n_steps += 1
        self.total_seconds += seconds
        if self._n_steps % _MOST_AGE == 0:
            self._forget_old()
        if n_prompt:
            self._note_prompt(n_prompt, seconds, self.of_rows(n_rows))
        elif n_rows:
            if n_rows not in self._rows:
                self._known.insert(bisect_right(self._known, n_rows), n_rows)
            self._rows[n_rows] = _mean(self._rows.get(n_rows), seconds)
            self._noted[n_rows] = self._n_steps

    def of_rows(self, n_rows: int) -> float | None:
        """Return the seconds of a step with `n_rows` rows and no prompt; None if nothing was measured yet.

        Between two measured numbers of rows, the cost is linear. Beyond them it is that of the nearest one: a low
        guess, which is corrected as soon as such a step is tried.
        """
        known = self._known
        if not known:
            return None
        above = bisect_right(known, n_rows)
        if above == 0:
            return self._rows[known[0]]
        low = known[above - 1]
        if low == n_rows or above == len(known):
            return self._rows[low]
        high = known[above]
        share = (n_rows - low) / (high - low)
        return (1 - share) * self._rows[low] + share * self._rows[high]

    @property
    def per_prompt_token(self) -> float | None:
        """Seconds that a prompt token adds to a step; None if too few were computed yet."""
        line = self._prompts.fit()
        return None if line is None else line[1]

    def prompt_tokens_in(self, seconds: float) -> int | None:
        """Return how many prompt tokens add so many seconds to a step; None if that is unknown.

        Prompt tokens next to other rows have a fixed cost, too: llama.cpp may compute them in a pass of their own.
        """
        line = self._prompts.fit()
        if line is None:
            return None
        fixed, per_token = line
        return max(0, int((seconds - fixed) / per_token)) if per_token else None

    def _note_prompt(self, n_tokens: int, seconds: float, of_rows: float | None) -> None:
        if of_rows is None and n_tokens < _LEAST_TOKENS:
            return
        self._prompts.add(n_tokens, max(seconds - (of_rows or 0.0), 0.1 * seconds))

    def _forget_old(self) -> None:
        for n_rows in [n for n in self._known if self._n_steps - self._noted[n] > _MOST_AGE]:
            self._known.remove(n_rows)
            del self._rows[n_rows], self._noted[n_rows]


def _mean(old: float | None, new: float) -> float:
    """Return the mean with a new measurement, of which no more than twice the mean counts."""
    return new if old is None else old + _NEWEST * (min(new, 2 * old) - old)


class _Line:
    """The straight line through measurements (number of tokens, seconds), by least squares. Later ones weigh more."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, n_tokens: int, seconds: float) -> None:
        keep = max(0.0, 1 - n_tokens / _LATEST_TOKENS)
        self._n = keep * self._n + 1
        self._x = keep * self._x + n_tokens
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + n_tokens * n_tokens
        self._xy = keep * self._xy + n_tokens * seconds

    def fit(self) -> tuple[float, float] | None:
        """Return the seconds for no token, and for each; None without a measurement."""
        if not self._n:
            return None
        mean = self._y / self._x
        spread = self._n * self._xx - self._x * self._x
        if spread <= 0.01 * self._x * self._x:  # all steps had about the same number of tokens
            return 0.0, mean
        slope = (self._n * self._xy - self._x * self._y) / spread
        slope = min(mean, max(0.05 * mean, slope))
        return (self._y - slope * self._x) / self._n, slope
