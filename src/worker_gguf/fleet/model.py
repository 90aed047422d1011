"""One model of MODELS: its files, its card, and its engine while it is in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from worker_gguf.engine.machine import Machine
from worker_gguf.errors import WorkerError
from worker_gguf.fleet.room import Need, need_of
from worker_gguf.fleet.roster import Entry
from worker_gguf.gguf import ModelHeader, read_headers
from worker_gguf.plan.planning import with_adapters
from worker_gguf.protocol.models import ModelCard
from worker_gguf.settings.adapters import AdapterEntry
from worker_gguf.start.adapters import adapter_headers
from worker_gguf.start.engine_start import EngineStart
from worker_gguf.start.fetch import fetch, fetch_adapter, fetch_projector, find, find_adapter, find_projector
from worker_gguf.start.loaded import LoadedModel
from worker_gguf.start.model_card import (
    adapter_cards,
    card_of,
    is_private,
    request_defaults,
    with_special_texts,
    with_vision,
)
from worker_gguf.start.open_model import open_model
from worker_gguf.start.projector import ProjectorModel, projector_for
from worker_gguf.start.read_ahead import ReadAhead
from worker_gguf.start.start import Start
from worker_gguf.store import LocalModel, UsageMark

if TYPE_CHECKING:
    from worker_gguf.start.checks import Check

__all__ = ["FleetModel", "Found"]

logger = logging.getLogger(__name__)


class Found(Struct, frozen=True):
    """A model on disk: its files, which are protected from pruning, and the memory that it needs.

    `projector` is what lets it see images, if there is one.
    """

    local: LocalModel
    usage_mark: UsageMark
    need: Need
    projector: ProjectorModel | None = None


class FleetModel:
    """One model of the fleet, loaded or not.

    `find` and `open` can take minutes. Only one thread at a time may open and close the model.
    """

    def __init__(self, entry: Entry, go_on: Callable[[], bool], created_s: int) -> None:
        """`go_on` is called during a download or a load, and cancels it by returning False."""
        self.name = entry.name
        self.settings = entry.settings
        self.defaults = request_defaults(entry.settings)
        self.loaded: LoadedModel | None = None
        self.progress: dict[str, float] = {}
        self.load_seconds = 0.0
        self.last_load_s = 0.0
        self.n_loads = 0
        self.n_unloads = 0
        self._go_on = go_on
        self._card = _first_card(entry, created_s)
        self._finding = threading.Lock()
        self._found: Found | None = None
        self._checked: tuple[Check, ...] = ()

    @property
    def found(self) -> Found | None:
        return self._found

    @property
    def card(self) -> ModelCard:
        """The known public facts of the model: some if it is not on disk, more if it is, all if it is loaded."""
        loaded = self.loaded
        return self._card if loaded is None else loaded.service.card

    def look(self) -> None:
        """Find the model if its files are on disk, without a network request.

        If its files cannot be read, a warning is logged, and `find` or `open` tries again.
        """
        settings = self.settings
        try:
            with self._finding:
                if self._found is not None:
                    return
                with EngineStart() as engine_start:
                    machine = engine_start.machine
                    if (local := find(settings, machine)) is not None:
                        own_projector = partial(find_projector, settings, machine)
                        self._keep(local, own_projector, partial(find_adapter, settings, machine))
        except WorkerError as error:
            logger.warning("model cannot be read yet", extra={"model": self.name, "reason": error.message})
        except Exception:
            logger.exception("model cannot be read yet", extra={"model": self.name})

    def find(self) -> Found:
        """Find the model on disk or download it. Raises the WorkerError of a failure."""
        with self._finding:
            if self._found is None:
                with EngineStart() as engine_start:  # it starts a process only if a quantisation must be chosen
                    start, machine = self._start(), engine_start.machine
                    own_projector = partial(fetch_projector, start, machine)
                    self._keep(fetch(start, machine), own_projector, partial(fetch_adapter, start, machine))
            assert self._found is not None
            return self._found

    def adopt(self, loaded: LoadedModel, seconds: float) -> None:
        """Take over a model that is already loaded; loading it took `seconds`. If this fails, the model is stopped."""
        try:
            known, files = loaded.service.card, [adapter.local for adapter in loaded.adapters.all]
            card = card_of(self.settings, loaded.local, loaded.header, adapters=files)
            card = replace(card, bos_text=known.bos_text, eos_text=known.eos_text)
            # The plan may have left it out for lack of memory. There may be more at the next load.
            projector = loaded.projector if loaded.plan.pools is None else None
            need = self._need(loaded.header, loaded.adapters.headers, projector)
            usage_mark = self._extended(loaded.usage_mark, loaded.local, projector, files)
            self._card = card if projector is None else with_vision(card)
            self._found = Found(loaded.local, usage_mark, need, projector)
        except BaseException:
            loaded.stop()
            raise
        self._is_up(loaded, seconds)

    def open(self, left_of: Callable[[Machine], Machine], clock: Callable[[], float]) -> None:
        """Load the model. Raises the WorkerError of a failure, after which nothing stays loaded.

        `left_of` returns the part of the machine's memory that other models leave free.
        """
        found, start, started_s = self.find(), self._start(), clock()
        with ReadAhead(start) as ahead:
            loaded = open_model(
                start,
                found.local,
                found.usage_mark,
                ahead,
                EngineStart(),
                checked=self._checked,
                left_of=left_of,
                projector=None if found.projector is None else found.projector.local,
            )
        self._is_up(loaded, clock() - started_s)

    def detach(self) -> LoadedModel | None:
        """Make the model unavailable to new requests and return it, if it was loaded. The caller must close it."""
        loaded, self.loaded = self.loaded, None
        return loaded

    def close(self, loaded: LoadedModel) -> None:
        """Close a detached model. Its files stay protected from pruning."""
        from worker_gguf.llama.backend import give_memory_back

        loaded.close()
        give_memory_back()

    def shut_down(self) -> None:
        """Unload the model if it is loaded, and release the usage mark that protects its files."""
        if loaded := self.detach():
            self.close(loaded)
        if self._found is not None:
            self._found.usage_mark.release()

    def _is_up(self, loaded: LoadedModel, seconds: float) -> None:
        self.loaded = loaded
        self._checked = loaded.checks
        self.n_loads += 1
        self.load_seconds += seconds
        self.last_load_s = seconds
        self.progress = {}

    def _start(self) -> Start:
        return Start(self.settings, gate=self._note, shares_memory=True)

    def _keep(
        self,
        local: LocalModel,
        obtain_projector: Callable[[LocalModel], LocalModel | None],
        obtain: Callable[[AdapterEntry], LocalModel | None],
    ) -> None:
        """Keep what is known of the model.

        It is found if `obtain_projector` returns the projector that it must have, and `obtain` each of its adapters.
        """
        settings = self.settings
        usage_mark = UsageMark(local.paths, settings.cache_dir())
        try:
            header = read_headers(local.paths, ())
            self._card = card = with_special_texts(card_of(settings, local, header), local, header)
            beside = obtain_projector(local)
            projector = projector_for(settings, beside, header)
            if projector is not None:
                self._card = card = with_vision(card)
                # Now, because the download of an adapter could prune it.
                usage_mark = self._extended(usage_mark, local, projector)
            found = [obtain(entry) for entry in settings.adapters]
            adapters = [adapter for adapter in found if adapter is not None]
            if len(adapters) < len(found) or (beside is None and settings.names_projector):
                usage_mark.release()
                return
            need = self._need(header, adapter_headers(settings, adapters, local, header), projector)
            if adapters:
                usage_mark = self._extended(usage_mark, local, projector, adapters)
        except BaseException:
            usage_mark.release()
            raise
        self._card = replace(card, adapters=adapter_cards(settings, adapters))
        self._found = Found(local, usage_mark, need, projector)

    def _need(self, header: ModelHeader, adapters: Sequence[ModelHeader], projector: ProjectorModel | None) -> Need:
        wanted = None if projector is None else projector.wanted(header)
        return need_of(with_adapters(header, adapters), self.settings, wanted)

    def _extended(
        self,
        usage_mark: UsageMark,
        local: LocalModel,
        projector: ProjectorModel | None,
        adapters: Sequence[LocalModel] = (),
    ) -> UsageMark:
        """Return a mark that takes the place of that of the model, and protects its projector and its adapters, too."""
        others = adapters if projector is None else (projector.local, *adapters)
        if not others:
            return usage_mark
        paths = (*local.paths, *(path for other in others for path in other.paths))
        extended = UsageMark(paths, self.settings.cache_dir())
        usage_mark.release()
        return extended

    def _note(self, phase: str, fraction: float) -> bool:
        self.progress[phase] = fraction
        return self._go_on()


def _first_card(entry: Entry, created_s: int) -> ModelCard:
    """Return the card of a model whose files are not known."""
    reference = entry.settings.model_reference
    aliases = () if is_private(reference) or reference == entry.name else (reference,)
    return ModelCard(entry.name, created_s, aliases=aliases, adapters=adapter_cards(entry.settings))
