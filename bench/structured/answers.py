"""Answers that are held to random schemas: `invalid_answers` counts those that do not match, of 2,000 at temperature
1.5. Some are cut by `max_tokens`; they must say so.
"""

import asyncio
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from bench.connection import Connection
from bench.load import Answer, run_loop
from bench.serving.servers import Server, Setup
from bench.structured.schemas import random_schema


@dataclass(frozen=True, slots=True)
class Sizes:
    answers: int = 2000
    at_once: int = 8
    n_ctx: int = 1024


def measure(setup: Setup, model: Path, sizes: Sizes = Sizes(), seed: int = 0) -> None:
    with setup.worker(model, sizes.at_once, sizes.n_ctx) as worker:
        faults = run_loop(_ask_all(worker, sizes, random.Random(seed)))
    cut = sum(fault is None for fault in faults)
    setup.findings.add("answers", len(faults))
    setup.findings.add("answers_cut", cut)
    setup.findings.notes += [fault for fault in faults if fault][:20]
    setup.findings.add("invalid_answers", sum(bool(fault) for fault in faults))


async def _ask_all(server: Server, sizes: Sizes, rng: random.Random) -> list[str | None]:
    """Return what is wrong with each answer, "" for nothing and None for one that was cut and says so."""
    todo = iter([(random_schema(rng), rng.choice((8, 30, 700, 700)), n) for n in range(sizes.answers)])

    async def keep_asking() -> list[str | None]:
        connection, faults = Connection(), []
        for schema, most, seed in todo:
            faults.append(_fault(schema, most, await _ask(server, connection, schema, most, seed)))
        connection.close()
        return faults

    return [fault for some in await asyncio.gather(*(keep_asking() for _ in range(sizes.at_once))) for fault in some]


async def _ask(server: Server, connection: Connection, schema: dict[str, Any], most: int, seed: int) -> Answer:
    form = {"type": "json_schema", "json_schema": {"name": "random", "schema": schema}}
    messages = [{"role": "user", "content": f"Answer {seed} in JSON."}]
    request = server.request(messages, most, response_format=form, temperature=1.5, seed=seed)
    return await server.ask(connection, request)


def _fault(schema: dict[str, Any], most: int, answer: Answer) -> str | None:
    if answer.finish_reason == "length":
        return None if answer.completion_tokens == most else f"cut after {answer.completion_tokens} of {most}"
    try:
        jsonschema.validate(json.loads(answer.text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{type(error).__name__}: {answer.text!r} does not match {json.dumps(schema)}"
    return "" if answer.finish_reason == "stop" else f"finish_reason is {answer.finish_reason}"
