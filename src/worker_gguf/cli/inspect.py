"""`worker-gguf inspect` prints the memory plan of a model, for this machine or another, without a download."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from worker_gguf.errors import WorkerError

if TYPE_CHECKING:
    from worker_gguf.engine.machine import Machine
    from worker_gguf.gguf import ModelHeader
    from worker_gguf.plan import DeviceUse, MemoryPlan, ProjectorWanted
    from worker_gguf.settings import Settings
    from worker_gguf.store import LocalModel

__all__ = ["add_arguments", "inspect", "parse_sizes"]

SETTINGS = ("n_ctx", "n_parallel", "n_gpu_layers", "n_cpu_moe", "n_ubatch", "type_k", "type_v")
SHOWN = (
    "n_gpu_layers",
    "n_cpu_moe",
    "tensor_split",
    "n_ctx",
    "n_parallel",
    "n_cells",
    "kv_unified",
    "type_k",
    "type_v",
    "flash_attn",
    "cache_ram",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "n_threads_batch",
)
FREE_SHARE = 0.97
"""The share of memory that is free on a named GPU. The driver uses the rest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="embedded, a path, or org/repo:QUANT; default: MODEL")
    parser.add_argument("--gpu", metavar="SIZES", help="GPUs to plan for, for example 24GB or 24GB,24GB, or none")
    parser.add_argument(
        "--ram", metavar="SIZE", help="main memory to plan for, for example 64GB; default: the free memory here"
    )
    for name in SETTINGS:
        kind = str if name.startswith("type") else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"default: {name.upper()}")


def inspect(arguments: argparse.Namespace, *, endpoint: str | None = None) -> int:
    """Print the plan. Returns 0, 1 if the model cannot be served with it, or 2 if the arguments are wrong."""
    from worker_gguf.cli.named_model import settings_for_one
    from worker_gguf.errors import SettingsError
    from worker_gguf.plan.planning import beyond_training, plan_for, with_adapters
    from worker_gguf.start.draft import check_headers

    try:
        settings = settings_for_one(arguments.model, **{name: getattr(arguments, name) for name in SETTINGS})
        machine = _machine(arguments.gpu, arguments.ram)
        header, where, local = _header(settings.model_reference, settings, machine, endpoint)
        print(f"{_describe(header)}\nfile: {where}")
        draft = None
        if settings.draft_model is not None:
            draft, where, _ = _header(settings.draft_model, settings, machine, endpoint)
            print(f"draft model: {_describe(draft)}\nfile: {where}")
            check_headers(draft, settings.draft_model, header, settings.model_reference)
        adapters = _adapters(settings, machine, header, endpoint)
        projector = _projector(settings, local, header)
        print(f"planned for: {_place(arguments.gpu, arguments.ram)}\n")
        plan = plan_for(with_adapters(header, adapters), machine, settings, draft=draft, projector=projector)
    except SettingsError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 2
    except WorkerError as error:
        print(f"worker-gguf: {error.message}", file=sys.stderr)
        return 1
    notes = filter(None, (_process(plan), f"window: {plan.weighed}", _draft(plan), _sees(plan)))
    print("\n".join([*_columns(_devices(plan), "<" + ">" * 8), *notes, "", *_columns(_settings(plan), "<><")]))
    if warning := beyond_training(header, plan):
        print(f"\n{warning}")
    return 0


def parse_sizes(text: str) -> list[int]:
    """Convert sizes such as `24GB,16GB` to bytes. Raises SettingsError.

    GB means GiB, because a GPU of 24 GB has 24 GiB. A number without a unit is also in GiB.
    """
    sizes = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:(M|G|T)(?:i?B)?)?\s*", part, re.IGNORECASE)
        if not found or not float(found[1]):
            from worker_gguf.errors import SettingsError

            raise SettingsError(f"{part.strip() or text!r} is not a size. Write for example 24GB, or 24GB,24GB.")
        sizes.append(round(float(found[1]) * 2 ** {"M": 20, "G": 30, "T": 40}[(found[2] or "G").upper()]))
    return sizes


def _machine(gpu: str | None, ram: str | None) -> Machine:
    from worker_gguf.engine.machine import Device, Machine

    free_bytes = parse_sizes(ram)[0] if ram else 0
    gpus: tuple[Device, ...] | None = None
    if gpu is not None:
        cards = enumerate(_cards(gpu))
        gpus = tuple(Device(f"GPU {i} of {_gib(size)}", round(size * FREE_SHARE), size) for i, size in cards)
    if gpus is not None and ram:
        return Machine(len(os.sched_getaffinity(0)), free_bytes, gpus)
    from worker_gguf.llama.machine import read_machine

    here = read_machine()
    return Machine(here.n_cores, free_bytes or here.free_bytes, here.gpus if gpus is None else gpus)


def _place(gpu: str | None, ram: str | None) -> str:
    """Describe the machine of the arguments, for example `2 x 24 GB + 1 x 16 GB, 64 GB of main memory`."""
    memory = f"{_gb(parse_sizes(ram)[0])} of main memory" if ram else ""
    if gpu is None:
        return f"this machine, with {memory}" if memory else "this machine"
    cards = " + ".join(f"{n} x {_gb(size)}" for size, n in Counter(_cards(gpu)).items())
    return f"{cards or 'no GPU'}, {memory or 'the free main memory of this machine'}"


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:g} GB"


def _cards(gpu: str) -> list[int]:
    return [] if gpu.strip().lower() in ("none", "0", "") else parse_sizes(gpu)


def _adapters(settings: Settings, machine: Machine, model: ModelHeader, endpoint: str | None) -> list[ModelHeader]:
    """Print the adapters of LORA, and return their headers. Raises ModelInvalid if one is not for the model."""
    from worker_gguf.start.adapters import check_adapter

    headers = []
    for entry in settings.adapters:
        header, where, _ = _header(str(entry.ref), settings, machine, endpoint, is_adapter=True)
        check_adapter(entry.name, header, str(entry.ref), model, settings.model_reference)
        print(f"adapter {entry.name}: {_gib(header.weights_bytes)}\nfile: {where}")
        headers.append(header)
    return headers


def _header(
    reference: str, settings: Settings, machine: Machine, endpoint: str | None, *, is_adapter: bool = False
) -> tuple[ModelHeader, str, LocalModel | None]:
    """Return the header, the place where it was read, and the files if that is on disk and not on the Hub."""
    from functools import partial

    from worker_gguf.errors import ModelNotFound
    from worker_gguf.gguf import read_header, read_headers
    from worker_gguf.plan import preference
    from worker_gguf.store import Hub, HubRef, ModelRef, locate, read_remote
    from worker_gguf.store.select import PREFERENCE, by_labels

    ref = ModelRef.parse(reference)
    if local := locate(ref, settings.cache_dirs(), baked_dir=settings.model_baked_dir):
        header = read_header(local.path) if is_adapter else read_headers(local.paths)
        return header, f"{local.path}{_parts(local.paths)}", local
    if not isinstance(ref, HubRef):
        raise ModelNotFound(f"{ref} is not on this machine, and only models on the Hub can be inspected remotely.")
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    prefer = by_labels(partial(preference, order=PREFERENCE, machine=machine))
    remote = read_remote(
        ref, Hub(token, endpoint), prefer, (lambda files: read_header(files[0])) if is_adapter else read_headers
    )
    size = _gib(remote.size_bytes)
    where = f"{remote.repo}/{remote.files[0]}{_parts(remote.files)} on the Hub, {size} to download"
    return remote.header, where, None


def _projector(settings: Settings, local: LocalModel | None, header: ModelHeader) -> ProjectorWanted | None:
    """Return what a start would wish for a projector that is on disk. Prints its file."""
    from worker_gguf.errors import ModelNotFound
    from worker_gguf.start.projector import ProjectorModel
    from worker_gguf.store import ModelRef, locate
    from worker_gguf.store.beside import projector_beside

    if settings.mmproj == "none":
        return None
    if settings.mmproj == "auto":
        found = projector_beside(local) if local is not None else None
    else:
        ref = ModelRef.parse(settings.mmproj)
        found = locate(ref, settings.cache_dirs(), baked_dir=settings.model_baked_dir, kind="mmproj")
        if found is None:
            raise ModelNotFound(f"{ref} is not on this machine, and a projector (MMPROJ) is inspected only there.")
    projector = found and ProjectorModel.of(found, header, is_required=settings.names_projector)
    if not projector:
        return None
    print(f"projector: {projector.local.path}, {_gib(projector.local.size_bytes)}")
    return projector.wanted(header)


def _parts(files: Sequence[object]) -> str:
    return f" and {len(files) - 1} more" if len(files) > 1 else ""


def _describe(header: ModelHeader) -> str:
    experts = f", {header.n_experts_used} of {header.n_experts} experts" if header.n_experts else ""
    return (
        f"{header.name or 'a model without a name'}: {header.architecture} {header.quantisation}, "
        f"{_count(header.n_params)} parameters, {_gib(header.weights_bytes)}, {header.n_layers} layers{experts}, "
        f"{header.n_vocab} tokens, trained for {header.n_ctx_train}"
    )


def _devices(plan: MemoryPlan) -> Iterator[tuple[str, ...]]:
    yield "device", "layers", "weights", "KV", "compute", "other", "process", "used", "room"
    for use in plan.devices:
        yield _device_row(use)
    for use in plan.draft.devices if plan.draft else ():
        yield _device_row(replace(use, name=f"draft, {use.name}", process_bytes=0))


def _device_row(use: DeviceUse) -> tuple[str, ...]:
    sizes = (use.weights_bytes, use.kv_bytes, use.compute_bytes, use.other_bytes, use.process_bytes)
    return (use.name, str(use.n_layers), *map(_gib, (*sizes, use.used_bytes, use.room_bytes)))


def _process(plan: MemoryPlan) -> str | None:
    """Explain the column of the same name. Returns None if no GPU is used."""
    process_bytes = max((use.process_bytes for use in plan.devices), default=0)
    if not process_bytes:
        return None
    return (
        f"process: {_gib(process_bytes)} on each GPU for the CUDA context and llama.cpp's workspaces, once for each "
        "model in memory"
    )


def _draft(plan: MemoryPlan) -> str | None:
    if plan.has_mtp:
        return f"mtp: the model's MTP layer guesses tokens, with {_gib(plan.mtp_bytes)} of this memory"
    if plan.draft is None:
        return None
    return f"draft: guesses for {plan.draft.n_parallel} sequences of at most {plan.draft.n_ctx} tokens"


def _sees(plan: MemoryPlan) -> str | None:
    if plan.blind:
        return f"projector: none, because {plan.blind}"
    return None if plan.projector is None else f"projector: {plan.projector.summary()['memory']}, for images"


def _settings(plan: MemoryPlan) -> Iterator[tuple[str, ...]]:
    yield "setting", "planned", "why"
    for name in SHOWN:
        value = getattr(plan, name)
        if name in plan.reasons:
            text = ",".join(f"{share:g}" for share in value) if isinstance(value, tuple) else str(value).lower()
            yield name.upper(), text, plan.reasons[name]


def _columns(rows: Iterable[tuple[str, ...]], sides: str) -> list[str]:
    """Format rows as aligned columns. `sides` has < (left) or > (right) for each column."""
    table = list(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(sides))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in table
    ]


def _count(n: int) -> str:
    return f"{n / 1e9:.1f} B" if n >= 1e9 else f"{n / 1e6:.1f} M"


def _gib(n_bytes: int) -> str:
    from worker_gguf.plan import size_text

    return size_text(n_bytes)
