"""The images of requests: encodes each once, and keeps their rows until all who need them have computed them."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.batch import Chunk
from worker_gguf.engine.image_runs import IMAGE, ImageRun, ImageWork, number_of, row_ids
from worker_gguf.engine.request import GenerationRequest
from worker_gguf.errors import ContextLengthExceeded, InvalidRequest, ModelInvalid
from worker_gguf.images import check_content
from worker_gguf.llama.context import Context, DecodeFailed, NoSpace
from worker_gguf.llama.projector import Projector
from worker_gguf.llama.row_batch import Rows

__all__ = ["Images"]

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 16
# How often a request that waits for room is looked at, because it may have been cancelled.
_LOOK_S = 0.1


class _Seen(Struct, eq=False):
    """An image that was encoded. `parts` has text tokens, or the number of a run and its rows."""

    parts: tuple[tuple[int, ...] | _Run, ...]
    n_users: int = 0

    @property
    def n_bytes(self) -> int:
        return sum(part.rows.values.nbytes for part in self.runs)

    @property
    def runs(self) -> Iterable[_Run]:
        return (part for part in self.parts if isinstance(part, _Run))


class _Run(Struct, frozen=True, eq=False):
    number: int
    rows: Rows


class Images:
    """Keeps at most `limit_bytes` of rows, except for a single request that needs more.

    Requests are prepared in one thread, and all else happens in that of the engine's loop.
    """

    def __init__(self, projector: Projector, *, n_ctx: int, n_ubatch: int, limit_bytes: int) -> None:
        """`n_ubatch` is the most rows that see each other, because they must be computed together."""
        self._projector = projector
        self._n_ctx = n_ctx
        self._n_ubatch = n_ubatch
        self._limit_bytes = limit_bytes
        self._seen: dict[bytes, _Seen] = {}  # the least recently used first
        self._rows: dict[int, Rows] = {}
        self._used_by: dict[str, list[_Seen]] = {}
        self._n_bytes = 0
        self._changed = threading.Condition()
        self.work = ImageWork()
        """An image that is found among those that are kept is reused."""

    @property
    def is_causal(self) -> bool:
        return self._projector.is_causal

    def try_out(self, context: Context) -> None:
        """Compute one row with an empty context, so that a model that cannot is not found by the first request.

        Raises ModelInvalid. Where llama.cpp ends the process instead, the start sees that.
        """
        places = np.zeros((4, 1), np.int32) if self._projector.has_places else None
        rows = Rows(np.zeros((1, self._projector.width), np.float32), 1, places)
        try:
            context.decode_rows(Chunk(0, 0, [IMAGE], 0), rows, 0, is_causal=self.is_causal)
        except (DecodeFailed, NoSpace) as error:
            raise ModelInvalid(f"This model cannot compute images ({error}). Set MMPROJ=none.") from None
        context.truncate(0, 0)

    def prepare(self, request: GenerationRequest, is_wanted: Callable[[], bool] = lambda: True) -> GenerationRequest:
        """Return the request with the rows of its images in its prompt.

        They are kept until `forget`. When the request `is_wanted` no more, what is returned is of no use. Raises
        InvalidRequest, or EngineFailed if an image cannot be encoded.
        """
        if request.prompt_logprobs is not None:
            raise InvalidRequest("Log-probabilities of a prompt with images are not supported.", param="messages")
        tokens: list[int] = []
        runs: list[ImageRun] = []
        images = enumerate(request.images)
        for at, token in enumerate(request.prompt):
            if token != IMAGE:
                tokens.append(token)
                continue
            if not is_wanted():
                return request
            n_others = len(tokens) + len(request.prompt) - at - 1
            number, data = next(images)
            try:
                parts = self._see(request.id, data, n_others, is_wanted)
            except InvalidRequest as error:
                if not request.image_params or isinstance(error, ContextLengthExceeded):
                    raise
                param = request.image_params[number]
                what = error.message[0].lower() + error.message[1:]
                raise InvalidRequest(f"Invalid '{param}': {what}", param=param) from None
            for part in parts:
                if isinstance(part, _Run):
                    n_rows = len(part.rows.values)
                    runs.append(ImageRun(len(tokens), n_rows, is_whole=not self.is_causal))
                    tokens += row_ids(part.number, n_rows)
                else:
                    tokens += part
        if len(tokens) >= self._n_ctx:
            raise ContextLengthExceeded(len(tokens), self._n_ctx, param="messages")
        return replace(request, prompt=tuple(tokens), images=(), runs=tuple(runs))

    def rows(self, token: int) -> Rows:
        """Return the rows of the run to which a negative token belongs. A request that was prepared must have it."""
        with self._changed:
            return self._rows[number_of(token)]

    def forget(self, request_id: str) -> None:
        """Let the rows of a request be dropped when there is no room for them."""
        with self._changed:
            for seen in self._used_by.pop(request_id, ()):
                seen.n_users -= 1
            self._changed.notify()

    def close(self) -> None:
        self._projector.close()

    def _see(
        self, request_id: str, data: bytes, n_others: int, is_wanted: Callable[[], bool]
    ) -> tuple[tuple[int, ...] | _Run, ...]:
        """Return the parts of an image, encoded or found, and note that the request uses them."""
        digest = hashlib.sha256(data).digest()
        with self._changed:
            if (seen := self._seen.pop(digest, None)) is not None:
                self._seen[digest] = seen
                self._use(request_id, seen)
                self.work = replace(self.work, reused=self.work.reused + 1)
                return seen.parts
        check_content(data, name="An image", param="messages")
        with self._projector.look(data) as image:
            runs = [part for part in image.parts if isinstance(part, int)]
            self._check(runs, n_others)
            n_bytes = 4 * self._projector.width * sum(runs)
            if not self._make_room(request_id, n_bytes, is_wanted):
                return ()
            started = time.perf_counter()
            encoded = iter(image.encode())
            parts = tuple(
                _Run(_number(digest, i), next(encoded)) if isinstance(part, int) else part
                for i, part in enumerate(image.parts)
            )
        seconds = time.perf_counter() - started
        logger.info("image encoded", extra={"tokens": sum(runs), "seconds": round(seconds, 3)})
        work = self.work
        self.work = replace(work, encoded=work.encoded + 1, seconds=work.seconds + seconds)
        seen = _Seen(parts)
        with self._changed:
            self._seen[digest] = seen
            self._n_bytes += seen.n_bytes
            self._rows |= {run.number: run.rows for run in seen.runs}
            self._use(request_id, seen)
        return parts

    def _check(self, runs: list[int], n_others: int) -> None:
        """Refuse an image before it is encoded. `n_others` is the number of the other tokens, at least."""
        if n_others + sum(runs) >= self._n_ctx:
            raise ContextLengthExceeded(n_others + sum(runs), self._n_ctx, param="messages")
        if not self.is_causal and (most := max(runs, default=0)) > self._n_ubatch:
            raise InvalidRequest(
                f"An image takes {most} tokens, which this model must compute together, and N_UBATCH={self._n_ubatch} "
                "allows fewer. Send a smaller image, or raise N_UBATCH.",
                param="messages",
            )

    def _use(self, request_id: str, seen: _Seen) -> None:
        seen.n_users += 1
        self._used_by.setdefault(request_id, []).append(seen)

    def _make_room(self, request_id: str, n_bytes: int, is_wanted: Callable[[], bool]) -> bool:
        """Drop rows that no request uses, and wait while others use too many. Returns False when it is not wanted."""
        with self._changed:
            while True:
                self._drop_unused(n_bytes)
                only_own = all(user == request_id for user in self._used_by)
                if self._n_bytes + n_bytes <= self._limit_bytes or only_own:
                    return True
                if not is_wanted():
                    return False
                self._changed.wait(_LOOK_S)

    def _drop_unused(self, n_bytes: int) -> None:
        unused = [digest for digest, seen in self._seen.items() if not seen.n_users]
        for digest in unused:
            if self._n_bytes + n_bytes <= self._limit_bytes:
                return
            seen = self._seen.pop(digest)
            self._n_bytes -= seen.n_bytes
            for run in seen.runs:
                del self._rows[run.number]


def _number(digest: bytes, part: int) -> int:
    """Return the number of a run, which is the same wherever the same image is seen again."""
    return int.from_bytes(hashlib.sha256(digest + part.to_bytes(4, "little")).digest()[:_DIGEST_BYTES], "little")
