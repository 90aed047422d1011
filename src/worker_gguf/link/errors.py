"""Converts the errors of an engine process to messages and back."""

from __future__ import annotations

from worker_gguf import errors
from worker_gguf.errors import EngineFailed, WorkerError
from worker_gguf.link.messages import ErrorReport

__all__ = ["error_of", "report_of"]

# The errors that an engine process raises. Each is created from a message alone.
_KINDS: dict[str, type[WorkerError]] = {
    kind.__name__: kind
    for kind in (
        errors.DeadlineExceeded,
        errors.EngineFailed,
        errors.InvalidRequest,
        errors.ModelError,
        errors.ModelInvalid,
        errors.NotEnoughMemory,
        errors.NotReady,
        errors.QueueFull,
        errors.Unfit,
        errors.WorkerError,
    )
}


def report_of(error: WorkerError) -> ErrorReport:
    lengths = None
    if isinstance(error, errors.ContextLengthExceeded):
        lengths = error.n_prompt_tokens, error.n_ctx
    return ErrorReport(
        kind=type(error).__name__,
        message=error.message,
        retry_after_s=error.retry_after_s,
        param=error.param,
        lengths=lengths,
    )


def error_of(report: ErrorReport) -> WorkerError:
    """Return the error of a report. An unknown kind becomes EngineFailed."""
    if report.kind == errors.Unfit.__name__:  # the only check of an engine process
        return errors.Unfit.of(report.message, [{"name": "library", "ok": False, "reason": report.message}])
    if report.lengths is not None:
        return errors.ContextLengthExceeded(*report.lengths, param=report.param)
    kind = _KINDS.get(report.kind, EngineFailed)
    return kind(report.message, param=report.param, retry_after_s=report.retry_after_s)
