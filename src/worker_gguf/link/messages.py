"""The messages between the worker process and an engine process. Both sides run the same version of this package.

The worker process sends commands. Until `Serve`, the engine process answers each command with one report, after any
number of `Progress`, `FilesOpened` and `Logged`. After that it sends a `Step` for each turn of its loop, or two,
of which the first has what cannot wait.
"""

from __future__ import annotations

from msgspec import Struct

from worker_gguf.engine.batch import Logprob
from worker_gguf.engine.machine import Machine
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.engine.request import GenerationRequest, PoolingRequest
from worker_gguf.engine.runner import Limits, SpecialTokens
from worker_gguf.engine.updates import FinishReason

__all__ = [
    "AdapterLoaded",
    "Add",
    "Command",
    "ContextOpened",
    "Ending",
    "ErrorReport",
    "Failed",
    "FilesOpened",
    "Finish",
    "Found",
    "LastWords",
    "Load",
    "LoadAdapter",
    "LoadDraft",
    "LoadModel",
    "LoadProjector",
    "Logged",
    "Look",
    "ModelLoaded",
    "OpenContext",
    "Pool",
    "Progress",
    "Report",
    "Serve",
    "Step",
    "Stop",
]


class Message(Struct, frozen=True, array_like=True, tag=True):
    """A message is encoded as an array: the name of its class, then its fields in order."""


# --- commands ---------------------------------------------------------------------------------------------------------


class Look(Message, frozen=True):
    """Read the state of the machine. Answered by Found."""


class LoadModel(Message, frozen=True):
    """Load a model. Answered by ModelLoaded. A model that is already loaded is closed first.

    If `has_file`, the descriptor of the open file comes with this message, and `path` is only its name. `log_level` is
    a level of `logging`; lines below it are not sent.
    """

    path: str
    params: ModelParams
    has_file: bool
    log_level: int


class LoadDraft(Message, frozen=True):
    """Load the draft model of the loaded model. Answered by ModelLoaded, or by Failed if the two do not match.

    The fields are those of LoadModel. Another LoadModel closes it.
    """

    path: str
    params: ModelParams
    has_file: bool


class LoadAdapter(Message, frozen=True):
    """Load a LoRA adapter of the loaded model, after those before it in LORA. Answered by AdapterLoaded, or by Failed.

    `path` and `has_file` are those of LoadModel, and `name` is for errors. OpenContext draws its first token with all
    adapters in their `scale`, too. Another LoadModel frees the adapter.
    """

    name: str
    path: str
    scale: float
    has_file: bool


class LoadProjector(Message, frozen=True):
    """Load the projector of the loaded model, which has its vocabulary. Answered by ModelLoaded.

    `gpu` is the place of its GPU among those of the machine, None for the processor. `rows_bytes` is the main memory
    for encoded images. With `takes_turns`, images are encoded between the steps of the model, because both compute on
    the processor. Another LoadModel closes it.
    """

    path: str
    n_threads: int
    gpu: int | None
    rows_bytes: int
    takes_turns: bool = False


class OpenContext(Message, frozen=True):
    """Open the context of the loaded model. Answered by ContextOpened.

    With `draws_first`, a first token is drawn after the token `bos`, or a first vector is made of it if the context
    pools. That shows whether the model computes. `draft` has the parameters of the context that guesses tokens: that of
    the draft model, if one is loaded, or that of the model's own MTP layer.
    """

    params: ContextParams
    bos: int
    draws_first: bool
    n_sampling_threads: int
    draft: ContextParams | None = None


class Serve(Message, frozen=True):
    """Begin to serve in the context that was opened. Requests may follow.

    `cache_bytes` is the size of the prompt cache in main memory. With `holds_reports`, further tokens of answers are
    reported one computation later.
    """

    special: SpecialTokens
    max_queue: int
    cache_bytes: int = 0
    holds_reports: bool = False


class Add(Message, frozen=True):
    """Add a request. `number` stands for it in all other messages. It is refused if it has no slot by `start_by_s`.

    Images of these sizes lie one after another in the file whose descriptor comes with this message.
    """

    number: int
    request: GenerationRequest
    start_by_s: float | None
    image_sizes: tuple[int, ...] = ()


class Pool(Message, frozen=True):
    """Add inputs of one request of a client, for a model that pools.

    They come in one message, because the engine would begin with the first one alone. `numbers[i]` stands for
    `requests[i]` in all other messages. `group` is the same in all messages with inputs of that request. The first
    input of the message is refused if it has not begun by `start_by_s`.
    """

    numbers: list[int]
    requests: list[PoolingRequest]
    group: int
    start_by_s: float | None


class Finish(Message, frozen=True):
    """End a request. Does nothing if it has ended already. Nothing is reported about it any more."""

    number: int


class Stop(Message, frozen=True):
    """End the process."""


Load = LoadModel | LoadDraft | LoadProjector | LoadAdapter
Command = Look | Load | OpenContext | Serve | Add | Pool | Finish | Stop


# --- reports ----------------------------------------------------------------------------------------------------------


class ErrorReport(Message, frozen=True):
    """A WorkerError: the name of its class, its message, its seconds to wait, and the field of the request's body.

    `lengths` are those of the prompt and the context, if the prompt is too long.
    """

    kind: str
    message: str
    retry_after_s: int | None = None
    param: str | None = None
    lengths: tuple[int, int] | None = None


class Failed(Message, frozen=True):
    """The command failed."""

    error: ErrorReport


class Found(Message, frozen=True):
    """The state of the machine, and the GPU backends with which llama.cpp was built.

    `began_s` and `imported_s` are readings of `time.perf_counter`: when the process began to import, and when it was
    ready for commands.
    """

    machine: Machine
    gpu_backends: tuple[str, ...]
    began_s: float
    imported_s: float


class Progress(Message, frozen=True):
    """The part of the model that is loaded, 0 to 1."""

    fraction: float


class FilesOpened(Message, frozen=True):
    """All files of a split model are open, and none of them has been read."""


class ModelLoaded(Message, frozen=True):
    """`offloaded` is the number of layers on GPUs and of all layers, or None if llama.cpp did not log it.

    `taken_bytes` is the memory that the load took on GPUs.
    """

    n_ctx_train: int
    n_params: int
    offloaded: tuple[int, int] | None
    taken_bytes: int


class AdapterLoaded(Message, frozen=True):
    """The adapter is in memory. Whether it computes is seen when the context is opened."""


class ContextOpened(Message, frozen=True):
    """The context is open. `first_logprob` is the log-probability of the first token, None if none could be drawn.

    `first_error` is the error of its computation. `opened_s` is the reading of `time.perf_counter` when the context was
    open and the first token not yet drawn. `gpu_free_bytes` is the free memory of each GPU after that token, for which
    llama.cpp loads kernels and takes workspaces. A context that pools draws no token: `first_length` is the Euclidean
    length of its first vector, or of its first scores.
    """

    limits: Limits
    opened_s: float
    first_logprob: float | None
    first_error: str | None
    gpu_free_bytes: tuple[int, ...] = ()
    first_length: float | None = None


class Ending(Message, frozen=True):
    """The end of a request. `n_generated` counts all drawn tokens, with `end_token`, the one that ended the answer."""

    number: int
    reason: FinishReason
    n_generated: int
    n_cached: int
    error: ErrorReport | None = None
    end_token: int | None = None


class Step(Message, frozen=True):
    """What a turn of the engine's loop did.

    `numbers[i]` drew `tokens[i]`; end-of-generation tokens are left out. `logprobs` is empty, or has an entry for each
    token. `admitted` has the requests that got a slot for their first token, with their number of cached tokens. A
    request that had to leave its slot before that token comes again. `admitted_s` and `time_s` are readings of
    `time.monotonic` before and after the computation. `n_batch_tokens` is 0 if nothing was computed, and if a second
    report of the same turn follows, which has all numbers of the computation. `guessed` of these were guesses, and
    `guessed_right` of them became part of an answer. `drafted` and `drafted_right` are the parts of these that a draft
    model guessed, in `draft_seconds`. `constrained` tokens were held to a grammar, whose masks took `mask_seconds`.
    `switched` if it computed with other LoRA adapters than the turn before, which took `switch_seconds`. `scored` has
    the log-probabilities of further tokens of prompts. `saved_bytes` is the content of the prompt cache. `pooled` has
    the numbers of inputs as little-endian 32-bit floats; these inputs end in the same step. `seen` has the requests
    whose images are encoded, with the number of tokens of their prompts. Since the last turn, `images_encoded` images
    were encoded in `image_seconds`, and the rows of `images_reused` were still there.
    """

    time_s: float
    admitted_s: float
    numbers: list[int]
    tokens: list[int]
    logprobs: list[Logprob | None]
    admitted: list[tuple[int, int]]
    endings: list[Ending]
    busy_slots: int
    waiting: int
    held_tokens: int
    n_batch_tokens: int
    schedule_seconds: float
    decode_seconds: float
    sample_seconds: float
    guessed: int = 0
    guessed_right: int = 0
    saved_bytes: int = 0
    drafted: int = 0
    drafted_right: int = 0
    draft_seconds: float = 0.0
    constrained: int = 0
    mask_seconds: float = 0.0
    switched: bool = False
    switch_seconds: float = 0.0
    scored: list[tuple[int, tuple[Logprob, ...]]] = []
    pooled: list[tuple[int, bytes]] = []
    seen: list[tuple[int, int]] = []
    images_encoded: int = 0
    images_reused: int = 0
    image_seconds: float = 0.0


class Logged(Message, frozen=True):
    """A line of the log. `level` is a level of `logging`."""

    logger: str
    level: int
    event: str
    fields: dict[str, str | int | float | bool | None]


class LastWords(Message, frozen=True):
    """llama.cpp ends the process. `sentence` says why."""

    sentence: str


Report = (
    Failed | Found | Progress | FilesOpened | ModelLoaded | AdapterLoaded | ContextOpened | Step | Logged | LastWords
)
