"""Tests of README.md: its links, commands, examples and settings exist. `make demo` shows that they work."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

from tests.pages import blocks, broken_links
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat
from worker_gguf.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
# Read by make, by the build and by `worker-gguf deploy`, not by the worker.
OF_THE_BUILD = {"CMAKE_ARGS", "IMAGE", "LLAMA_WHEEL_INDEX", "RUNPOD_API_KEY", "VERSION"}


def test_its_links_lead_to_headings_and_files() -> None:
    assert broken_links(ROOT / "README.md") == []


def test_nothing_is_left_to_fill_in() -> None:
    assert re.findall(r"^[A-Z]+_[A-Z_]+$", README, re.MULTILINE) == []


def test_make_knows_every_target_that_is_named() -> None:
    shell = "".join(blocks(README, "sh"))
    named = set(re.findall(r"`make ([a-z]+)", README)) | set(re.findall(r"\bmake ([a-z]+)", shell))
    assert named >= {"demo", "run", "setup"}
    assert named <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))


def test_the_python_compiles_and_asks_the_embedded_model() -> None:
    snippets = blocks(README, "python")
    assert snippets
    for snippet in snippets:
        ast.parse(snippet)
        assert 'model="embedded"' in snippet


def test_the_body_that_curl_sends_is_a_good_request() -> None:
    commands = [shlex.split(block.replace("\\\n", " ")) for block in blocks(README, "sh") if block.startswith("curl")]
    assert commands
    for command in commands:
        assert command[1].endswith("/v1/chat/completions")
        body = json.loads(command[command.index("-d") + 1])
        assert parse_chat(body, Defaults(strict=True)).options.ignored == ()


def test_every_setting_that_is_named_exists() -> None:
    settings = {name.upper() for name in Settings.model_fields}
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)(?:=[^`]*)?`", prose))
    shell = set(re.findall(r"\b([A-Z][A-Z0-9_]*)=", "".join(blocks(README, "sh"))))
    assert {"N_CTX", "MODE"} <= named
    assert (named | shell) - OF_THE_BUILD <= settings
