"""The time to compile published schemas, and how long other requests stall meanwhile.

`schema_compile_ms` is the p99 of compiling each schema once, in this process. `compile_stall_ms` is how much longer the
longest pause of a running stream is while requests with new schemas come than while the same requests come without.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import words
from bench.connection import Connection
from bench.load import percentile, run_loop
from bench.serving.servers import Server, Setup
from bench.structured.schemas import published
from worker_gguf.constraints.matcher import Grammars
from worker_gguf.engine.request import Constraint
from worker_gguf.errors import InvalidRequest
from worker_gguf.llama.vocabulary_only import read_vocabulary
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    schemas: int = 1000
    stalling: int = 24  # requests in one reading
    prompt_tokens: int = 20
    max_tokens: int = 400  # of the stream


def measure(setup: Setup, model: Path, folder: Path, sizes: Sizes = Sizes()) -> None:
    """`folder` has the published schemas. The model's vocabulary is that of bench/words.py."""
    given = list(published(folder, sizes.schemas))
    constraints = [(schema, constraint) for schema in given if (constraint := _constraint(schema)) is not None]
    timed = _compile(model, constraints)
    times = [ms for ms, _ in timed]
    setup.findings.add("schemas_published", len(given))
    setup.findings.add("schemas_refused", len(given) - len(timed))
    setup.findings.add("schema_compile_p50_ms", percentile(times, 50))
    setup.findings.add("schema_compile_max_ms", max(times))
    setup.findings.add("schema_compile_ms", percentile(times, 99))
    schemas = [schema for _, schema in sorted(timed, key=lambda pair: -pair[0])]
    with setup.worker(model, 4, sizes.prompt_tokens + sizes.max_tokens + 64) as worker:
        run_loop(_longest_gap_ms(worker, sizes, schemas[-1:]))
        for turn in range(setup.rounds):
            some = schemas[turn * sizes.stalling : (turn + 1) * sizes.stalling]
            quiet = run_loop(_longest_gap_ms(worker, sizes, [None] * len(some)))
            busy = run_loop(_longest_gap_ms(worker, sizes, some))
            setup.findings.add("quiet_gap_ms", quiet)
            setup.findings.add("compile_gap_ms", busy)
            setup.findings.add("compile_stall_ms", max(0.0, busy - quiet))


def _constraint(schema: Schema) -> Constraint | None:
    """Return the constraint of a request with a schema, or None if it is refused."""
    form = {"type": "json_schema", "json_schema": {"name": "published", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "a"}], "response_format": form}
    try:
        return parse_chat(body, Defaults()).options.constraint
    except InvalidRequest:
        return None


def _compile(model: Path, given: Sequence[tuple[Schema, Constraint]]) -> list[tuple[float, Schema]]:
    """Return the milliseconds of each schema that compiles."""
    timed = []
    with model.open("rb") as file:
        vocabulary = read_vocabulary(file.fileno(), model.name)
    grammars = Grammars(vocabulary.table(vocabulary.eog))
    for schema, constraint in given:
        begun = time.perf_counter()
        with suppress(InvalidRequest):
            grammars.grammar(constraint)
            timed.append(((time.perf_counter() - begun) * 1e3, schema))
    del grammars
    vocabulary.close()
    return timed


async def _longest_gap_ms(server: Server, sizes: Sizes, schemas: Sequence[Schema | None]) -> float:
    """Return the longest pause of a stream while requests come, one after the other, each with its schema."""
    stream, others, seed = Connection(), Connection(), secrets.token_hex(8)
    request = server.request(words.prompt(sizes.prompt_tokens, seed), sizes.max_tokens, ignore_eos=True)
    running = asyncio.create_task(server.ask(stream, request))
    for number, schema in enumerate(schemas):
        form = {} if schema is None else {"json_schema": schema}
        prompt = words.prompt(sizes.prompt_tokens, f"{seed} {number}")
        await server.ask(others, server.request(prompt, 2, **form))
    answer = await running
    stream.close()
    others.close()
    return max(answer.gaps_ms())
