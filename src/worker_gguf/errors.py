"""The error classes of the package.

WorkerError
├── SettingsError              an environment variable has a bad value
├── RequestError               the client can correct the request (4xx)
│   ├── InvalidRequest         400  a field is missing, of the wrong type or out of bounds
│   │   ├── UnsupportedParameter   400  the parameter would change the answer but is not supported
│   │   ├── ContextLengthExceeded  400  the prompt is longer than the context of a request
│   │   └── TemplateError          400  the chat template refused the conversation
│   ├── Unauthorized           401  the API key is missing or wrong
│   ├── NotFound               404  the route or model does not exist
│   ├── MethodNotAllowed       405  the route exists, the method does not
│   ├── PayloadTooLarge        413  the body is over the limit
│   ├── UnsupportedEncoding    415  the Content-Encoding of the body is not supported
│   └── QueueFull              429  too many requests wait
├── ServingError               the worker failed (5xx)
│   ├── DeadlineExceeded       504  the request timed out
│   ├── NotReady               503  the worker is loading, draining or failed
│   └── EngineFailed           500  llama.cpp returned an error
│       ├── EngineCrashed          503  the engine process ended: another one takes its place
│       └── EngineWedged           503  llama.cpp did not return: the engine process restarts
├── ModelError                 the model cannot be served: the start fails
│   ├── ModelNotFound          the model of the reference does not exist
│   ├── ModelInvalid           the file is not a GGUF file that can be loaded
│   └── NotEnoughMemory        the model does not fit
├── Unfit                      a fitness check failed: the start fails
├── DownloadError              the Hub or the volume failed
├── BatchError                 `worker-gguf batch` stopped: a file or the worker failed
└── DeploymentError            `worker-gguf deploy` or `destroy` failed
    └── ManifestError          a key of deploy.yaml is missing, wrong or unknown
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "BatchError",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "DeploymentError",
    "DownloadError",
    "EngineCrashed",
    "EngineFailed",
    "EngineWedged",
    "InvalidRequest",
    "ManifestError",
    "MethodNotAllowed",
    "ModelError",
    "ModelInvalid",
    "ModelNotFound",
    "NotEnoughMemory",
    "NotFound",
    "NotReady",
    "PayloadTooLarge",
    "QueueFull",
    "RequestError",
    "ServingError",
    "SettingsError",
    "TemplateError",
    "Unauthorized",
    "Unfit",
    "UnsupportedEncoding",
    "UnsupportedParameter",
    "WorkerError",
]


class WorkerError(Exception):
    """The base class of all errors that the worker raises intentionally.

    The message tells the user what to do. `code` is stable and documented in docs/errors.md. `status` is the HTTP
    status, `kind` is OpenAI's `error.type`, and `param` is the name of the wrong field. `retry_after_s` is the time in
    seconds for which the client should wait.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    extra_headers: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """The additional headers of an answer with this error."""
        headers = dict(self.extra_headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


class SettingsError(WorkerError):
    """An environment variable has a bad value."""

    code = "bad_setting"


class RequestError(WorkerError):
    """The client can correct the request."""

    code = "invalid_request"
    status = 400
    kind = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of bounds."""


class UnsupportedParameter(InvalidRequest):
    """The parameter would change the answer but is not supported."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt is longer than the context of a request.

    Agents compact their history if the message contains the words of OpenAI or llama-server, or they read the first
    number after "context length". So the message contains the exact words of both.
    """

    code = "context_length_exceeded"

    def __init__(
        self, n_prompt: int, n_ctx: int, *, n_answer_tokens: int | None = 1, param: str | None = None, hint: str = ""
    ) -> None:
        """`n_answer_tokens` is the requested length of the answer, at least 1. With a `hint`, there is no answer."""
        n_answer = max(1, n_answer_tokens or 0)
        where = "messages" if param == "messages" else "prompt"
        self.n_prompt_tokens, self.n_ctx = n_prompt, n_ctx
        super().__init__(
            f"This model's maximum context length is {n_ctx} tokens, but the input has {n_prompt}. {hint}"
            if hint
            else f"This model's maximum context length is {n_ctx} tokens. However, you requested "
            f"{n_prompt + n_answer} tokens ({n_prompt} in the {where}, {n_answer} in the completion). "
            f"Please reduce the length of the {where} or completion. The prompt exceeds the available context size, of "
            "which at least one token must be left for the answer: shorten it, or raise N_CTX.",
            param=param,
        )


class TemplateError(InvalidRequest):
    """The chat template refused the conversation."""

    code = "template_error"


class Unauthorized(RequestError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    status = 401
    kind = "authentication_error"
    extra_headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class NotFound(RequestError):
    """The route or model does not exist."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """The route exists, the method does not."""

    code = "method_not_allowed"
    status = 405


class PayloadTooLarge(RequestError):
    """The body is over the limit."""

    code = "payload_too_large"
    status = 413


class UnsupportedEncoding(RequestError):
    """The Content-Encoding of the body is not supported."""

    code = "unsupported_encoding"
    status = 415
    extra_headers = MappingProxyType({"Accept-Encoding": "gzip, deflate"})


class QueueFull(RequestError):
    """Too many requests wait."""

    code = "queue_full"
    status = 429
    kind = "rate_limit_error"
    retryable = True

    @classmethod
    def of(cls, n_open: int, most: int, retry_after_s: int = 1) -> QueueFull:
        return cls(
            f"{n_open} requests run or wait and this worker takes {most}. Try again later, or raise MAX_QUEUE or "
            "N_PARALLEL.",
            retry_after_s=retry_after_s,
        )

    @classmethod
    def waited(cls, retry_after_s: int) -> QueueFull:
        why = "The request waited QUEUE_TIMEOUT_S for a slot and was not started. "
        return cls(f"{why}Try again later, add workers, or raise QUEUE_TIMEOUT_S.", retry_after_s=retry_after_s)


class ServingError(WorkerError):
    """The worker failed."""

    retryable = True


class DeadlineExceeded(ServingError):
    """The request timed out. Another attempt would take as long."""

    code = "deadline_exceeded"
    status = 504
    kind = "timeout_error"
    retryable = False
    # OpenAI's clients send a request again after any 5xx unless this header forbids it.
    extra_headers = MappingProxyType({"X-Should-Retry": "false"})


class NotReady(ServingError):
    """The worker is loading, draining or failed."""

    code = "not_ready"
    status = 503
    kind = "unavailable_error"


class EngineFailed(ServingError):
    """llama.cpp returned an error."""

    code = "engine_failed"


class EngineCrashed(EngineFailed):
    """The engine process ended during the request. Another process loads the model again."""

    code = "engine_crashed"
    status = 503
    kind = "unavailable_error"

    @classmethod
    def because(cls, why: str) -> EngineCrashed:
        return cls(f"{why} The model is loaded again: send the request again.", retry_after_s=5)


class EngineWedged(EngineFailed):
    """A computation in llama.cpp did not return. The engine process is ended, and another one loads the model."""

    code = "engine_wedged"
    status = 503
    kind = "unavailable_error"

    @classmethod
    def after(cls, seconds: float) -> EngineWedged:
        why = f"No step of the model has finished for {seconds:.0f} s, so the engine restarts. Send the request again."
        return cls(why, retry_after_s=5)


class ModelError(WorkerError):
    """The model cannot be served. The start fails."""

    code = "model_error"


class ModelNotFound(ModelError):
    """The model of the reference does not exist."""

    code = "model_not_found"


class ModelInvalid(ModelError):
    """The file is not a GGUF file that can be loaded."""

    code = "model_invalid"


class NotEnoughMemory(ModelError):
    """The model does not fit."""

    code = "not_enough_memory"


class Unfit(WorkerError):
    """A fitness check failed. The start fails. `checks` has all checks, in the form of /health."""

    code = "unfit"
    status = 503

    checks: tuple[Mapping[str, object], ...] = ()

    @classmethod
    def of(cls, message: str, checks: Iterable[Mapping[str, object]]) -> Unfit:
        error = cls(message)
        error.checks = tuple(checks)
        return error


class DownloadError(WorkerError):
    """The Hub or the volume failed."""

    code = "download_failed"
    status = 502
    retryable = True


class BatchError(WorkerError):
    """`worker-gguf batch` stopped: a file cannot be read or written, or the worker failed. What is answered is kept."""

    code = "batch_failed"


class DeploymentError(WorkerError):
    """`worker-gguf deploy` or `destroy` failed: RunPod refused a request or did not carry it out."""

    code = "deployment_failed"
    status = 502


class ManifestError(DeploymentError):
    """A key of deploy.yaml is missing, wrong or unknown. No request was sent to RunPod."""

    code = "bad_manifest"
    status = 500
