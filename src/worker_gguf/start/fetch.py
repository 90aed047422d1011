"""From the settings to a model's files on this machine: its GGUF, and the original repository's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from worker_gguf.errors import NotReady
from worker_gguf.observe.timeline import Timeline
from worker_gguf.plan import preference
from worker_gguf.settings import Settings
from worker_gguf.start.progress_bar import ProgressBar
from worker_gguf.store import LocalModel, ModelRef, locate
from worker_gguf.store.select import PREFERENCE, ModelFiles, by_labels

if TYPE_CHECKING:
    from worker_gguf.store import OriginalTokenizer

__all__ = ["Progress", "fetch", "original_tokenizer"]

Progress = Callable[[str, float], bool]
"""Is told a phase and the fraction done, 0 to 1, as it goes; False asks to give the start up."""


def fetch(settings: Settings, timeline: Timeline, progress: Progress) -> LocalModel:
    """Find the model, or download it. Raises NotReady when `progress` gives it up."""
    ref = ModelRef.parse(settings.model_reference)
    with timeline.phase("fetch") as phase:
        searched = list(dict.fromkeys([*settings.cache_dirs(), settings.cache_dir()]))
        found = locate(ref, searched, baked_dir=settings.model_baked_dir, prefer=prefer)
        local = found or _download(ref, settings, progress)
        phase.size_bytes = local.size_bytes
    return local


def _download(ref: ModelRef, settings: Settings, progress: Progress) -> LocalModel:
    from worker_gguf.store import ensure  # a start that has its model would spend 15 ms for nothing

    with ProgressBar(str(ref)) as bar:

        def fetched(done: int, total: int) -> None:
            bar.show(done, total)
            if not progress("fetch", done / total if total else 0.0):
                raise NotReady("The start was given up.")

        return ensure(
            ref,
            settings.cache_dirs(),
            _token(settings),
            fetched,
            download_dir=settings.cache_dir(),
            baked_dir=settings.model_baked_dir,
            most_bytes=settings.model_cache_max_bytes,
            prefer=prefer,
        )


def original_tokenizer(settings: Settings, timeline: Timeline) -> OriginalTokenizer | None:
    """What TOKENIZER names, if it names anything."""
    if not settings.tokenizer:
        return None
    with timeline.phase("tokenizer"):
        from worker_gguf.store import Hub, read_tokenizer

        return read_tokenizer(settings.tokenizer, settings.cache_dir(), Hub(_token(settings)))


def prefer(models: Sequence[ModelFiles]) -> ModelFiles | None:
    """Of several quants the best that fits this machine, when none is asked for."""
    from worker_gguf.llama.machine import read_machine

    return by_labels(partial(preference, order=PREFERENCE, machine=read_machine()))(models)


def _token(settings: Settings) -> str | None:
    return settings.hf_token.get_secret_value() if settings.hf_token else None
