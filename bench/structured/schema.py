"""Answers in the form of a JSON schema against free ones: tokens per second.

`schema_ratio_c1`, `_c8` and `_c32` are the tokens per second of a load whose answers are held to a schema, over those
of the same load without. `schema_over_llama_server_c8` compares the load with a schema to the peer's.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from bench.load import Figures, Load, run_alone
from bench.serving.servers import Server, Setup
from bench.structured.schemas import ENDLESS


@dataclass(frozen=True, slots=True)
class Sizes:
    at_once: tuple[int, ...] = (1, 8, 32)
    requests_each: int = 3
    prompt_tokens: int = 60
    max_tokens: int = 96
    peer_at_once: int = 8


HELD = {"response_format": {"type": "json_schema", "json_schema": {"name": "rows", "schema": ENDLESS}}}


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    n_ctx = sizes.prompt_tokens + sizes.max_tokens + 64
    for n in sizes.at_once:
        with setup.worker(model, n, n_ctx) as worker:
            _load(worker, n, sizes, held=True)  # reads the vocabulary and compiles the schema
            for turn in range(setup.rounds):
                rates = {held: _load(worker, n, sizes, held=held) for held in ((True, False), (False, True))[turn % 2]}
                setup.findings.add(f"schema_tokens_per_s_c{n}", rates[True].tokens_per_s)
                setup.findings.add(f"schema_free_tokens_per_s_c{n}", rates[False].tokens_per_s)
                setup.findings.add(f"schema_ratio_c{n}", rates[True].tokens_per_s / rates[False].tokens_per_s)
    if setup.peer_command:
        _compare(setup, model, n_ctx, sizes)


def _compare(setup: Setup, model: Path, n_ctx: int, sizes: Sizes) -> None:
    with setup.servers(model, sizes.peer_at_once, n_ctx) as servers:
        # Not chats: there, llama-server ends a JSON that is cut off with an error.
        for server in servers:
            _load(server, sizes.peer_at_once, sizes, held=True, chat=False)
        rates: dict[Server, list[float]] = {server: [] for server in servers}
        for _, server in setup.in_turn(servers):
            rate = _load(server, sizes.peer_at_once, sizes, held=True, chat=False).tokens_per_s
            rates[server].append(rate)
            if server.prefix:
                setup.findings.add(f"{server.prefix}schema_tokens_per_s_c{sizes.peer_at_once}", rate)
        worker, peer = (rates[server] for server in servers)
        for ours, theirs in zip(worker, peer, strict=True):
            setup.findings.add(f"schema_over_llama_server_c{sizes.peer_at_once}", ours / theirs)


def _load(server: Server, n: int, sizes: Sizes, *, held: bool, chat: bool = True) -> Figures:
    options = (HELD if chat else {"json_schema": ENDLESS}) | {"ignore_eos": None} if held else {}
    load = Load(
        server.url,
        server.model,
        n,
        n * sizes.requests_each,
        sizes.prompt_tokens,
        sizes.max_tokens,
        secrets.token_hex(8),
        chat=chat,
        options=options,
    )
    return run_alone(load)
