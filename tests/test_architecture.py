"""Import rules, sizes and places of things (docs/architecture.md), read from the syntax tree: nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
ARCHITECTURE = SRC.parent / "docs" / "architecture.md"
PACKAGE = "worker_gguf"

# What each room may import besides itself. A room is the first name under worker_gguf, a folder or a module; "" is
# worker_gguf/__init__.py, which holds the version.
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "environment": set(),
    "errors": set(),
    "latch": set(),
    "interpreter": set(),
    "embedded": set(),
    "gguf": {"errors"},
    "images": {"errors"},
    "engine": {"errors"},
    "template": {"errors"},
    "markup": {"engine", "errors"},
    "constraints": {"engine", "errors"},
    "readahead": set(),
    "settings": {"engine", "environment", "errors", "store"},
    "store": {"errors", "gguf"},
    "plan": {"engine", "errors", "gguf", "settings"},
    "link": {"engine", "environment", "errors"},
    "llama": {"constraints", "engine", "errors", "images"},
    "engine_process": {"engine", "errors", "interpreter", "link", "llama"},
    "generation": {"engine", "errors", "latch", "link"},
    "observe": {"engine", "errors", "generation", "latch"},
    "protocol": {"", "engine", "errors", "generation", "markup"},
    "service": {"engine", "errors", "generation", "images", "markup", "observe", "protocol", "template"},
    "start": {
        *(
            "",
            "engine",
            "environment",
            "errors",
            "generation",
            "gguf",
            "link",
            "llama",
            "observe",
            "plan",
            "protocol",
            "readahead",
            "service",
        ),
        *("settings", "store", "template"),
    },
    "fleet": {
        *("engine", "errors", "generation", "gguf", "latch", "llama", "observe", "plan", "protocol", "service"),
        *("settings", "start", "store"),
    },
    "worker": {
        *("", "engine", "errors", "fleet", "generation", "latch", "observe", "service", "settings", "start"),
    },
    "http": {"", "errors", "observe", "protocol", "service"},
    "batch": {"errors", "observe", "protocol", "service"},
    "queue": {"batch", "environment", "errors", "interpreter", "observe", "protocol", "service", "store"},
    "worker_process": {"http"},
    "deployment": {"errors", "settings"},
}
ANYTHING = {"cli", "__main__"}

# Third parties that only some parts may touch.
ONLY_IN = {
    # Elsewhere a value is a msgspec.Struct, which is defined in 0.04 ms instead of 1.2 ms at each start.
    "dataclasses": {"deployment"},
    "llama_cpp": {"llama"},
    "ctypes": {"llama"},
    "llguidance": {"constraints"},
    "fastapi": set(),  # 0.1 s of import for routes that Starlette has
    "starlette": {"http"},
    "uvicorn": {"http"},
    "runpod": {"queue"},
    "huggingface_hub": {"store"},
    "transformers": {"store"},
    "yaml": {"deployment", "fleet"},
    "prometheus_client": {"observe"},
    "opentelemetry": {"observe"},
}
_IMPURE = {"time", "threading", "asyncio", "numpy", "ctypes", "logging", "random", "os"}
PURE = {
    "worker_gguf.engine.pooling",
    "worker_gguf.batch.agenda",
    "worker_gguf.batch.answered",
    "worker_gguf.batch.tally",
    "worker_gguf.engine.memory",
    "worker_gguf.engine.scheduler",
    "worker_gguf.engine.slots",
    "worker_gguf.generation.turnover",
    "worker_gguf.fleet.eviction",
    "worker_gguf.fleet.residence",
    "worker_gguf.fleet.room",
    "worker_gguf.markup.parts",
    "worker_gguf.start.checks",
}
MOST_AT_THE_ROOT = 8
MAX_FILE_LINES = 340
MAX_FUNCTION_LINES = 50


@dataclass(frozen=True)
class Module:
    name: str
    text: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def part(self) -> str:
        return _part(self.name)


def _part(name: str) -> str:
    return name.removeprefix(PACKAGE).removeprefix(".").split(".")[0]


def _modules() -> list[Module]:
    found = []
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        names = path.relative_to(SRC).with_suffix("").parts
        is_package = names[-1] == "__init__"
        found.append(Module(".".join(names[:-1] if is_package else names), path.read_text("utf-8"), is_package))
    return found


MODULES = _modules()
KNOWN = {module.name for module in MODULES}


def _imports(module: Module) -> Iterator[tuple[str, int]]:
    """Every imported module, absolute, with its line; also those imported in functions and for type checkers.

    `from a import b` is a.b where that is a module of ours.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.name.split(".")[: None if module.is_package and node.level == 1 else -node.level]
                base = ".".join([*parents, base]).rstrip(".")
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield (deeper if deeper in KNOWN else base), node.lineno


def layer_faults(module: Module) -> Iterator[str]:
    """Imports go down only."""
    if module.part in ANYTHING:
        return
    if module.part not in MAY_IMPORT:
        yield f"{module.name}: a new part; say in MAY_IMPORT what it may import"
        return
    for name, line in _imports(module):
        if name.split(".")[0] == PACKAGE and _part(name) not in MAY_IMPORT[module.part] | {module.part}:
            yield f"{module.name}:{line} imports {name}"


def third_party_faults(module: Module) -> Iterator[str]:
    """These libraries are imported only where they are needed."""
    for name, line in _imports(module):
        root = name.split(".")[0]
        if module.part not in ONLY_IN.get(root, {module.part}):
            yield f"{module.name}:{line} imports {root}, which only {', '.join(sorted(ONLY_IN[root]))} may"


def purity_faults(module: Module) -> Iterator[str]:
    """A pure module decides from what it is given: no clock, no threads, no arrays."""
    if module.name not in PURE:
        return
    for name, line in _imports(module):
        if name.split(".")[0] in _IMPURE:
            yield f"{module.name}:{line} imports {name}"


def environment_faults(module: Module) -> Iterator[str]:
    """Only environment.py reads the environment."""
    if module.name == f"{PACKAGE}.environment":
        return
    names = {"environ", "environb", "getenv", "getenvb"}
    for node in ast.walk(module.tree):
        read = isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os"
        taken = (
            isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names}
        )
        if read or taken:
            yield f"{module.name}:{node.lineno} reads the environment"  # type: ignore[attr-defined]


def size_faults(module: Module) -> Iterator[str]:
    """A file of 340 lines or a function of 50 should be divided."""
    n_lines = len(module.text.splitlines())
    if n_lines > MAX_FILE_LINES:
        yield f"{module.name}: {n_lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or 0) - node.lineno + 1
            if n_lines > MAX_FUNCTION_LINES:
                yield f"{module.name}:{node.lineno} {node.name} has {n_lines} lines"


def docstring_faults(module: Module) -> Iterator[str]:
    """Every module says what it is; an empty __init__.py says nothing by being empty."""
    if not ast.get_docstring(module.tree) and not (module.is_package and not module.text.strip()):
        yield f"{module.name}: no docstring"


RULES: list[Callable[[Module], Iterator[str]]] = [
    layer_faults,
    third_party_faults,
    purity_faults,
    environment_faults,
    size_faults,
    docstring_faults,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps(rule: Callable[[Module], Iterator[str]]) -> None:
    faults = [fault for module in MODULES for fault in rule(module)]
    assert not faults, "\n".join([rule.__doc__ or "", *faults])


def test_no_permission_is_without_use() -> None:
    used: dict[str, set[str]] = {}
    for module in MODULES:
        names = {_part(name) for name, _ in _imports(module) if name.split(".")[0] == PACKAGE}
        used.setdefault(module.part, set()).update(names - {module.part})
    assert {room: allowed for room, allowed in MAY_IMPORT.items() if allowed - used[room]} == {}


def test_rules_name_only_modules_and_rooms_that_exist() -> None:
    assert PURE <= KNOWN
    assert MAY_IMPORT.keys() | ANYTHING == {module.part for module in MODULES}
    assert set.union(*ONLY_IN.values()) <= MAY_IMPORT.keys()


def test_the_table_of_rooms_lists_every_room_above_those_that_it_imports() -> None:
    table = ARCHITECTURE.read_text("utf-8").partition("| folder | is |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    row_of = {room: number for number, row in enumerate(rows) for room in row}
    assert row_of.keys() == MAY_IMPORT.keys() - {""} | {"cli"}
    faults = [
        f"{room} imports {imported}"
        for room, allowed in MAY_IMPORT.items()
        for imported in allowed - {""}
        if row_of[room] >= row_of[imported]
    ]
    assert faults == []


def test_few_modules_lie_at_the_root() -> None:
    assert len(list((SRC / PACKAGE).glob("*.py"))) <= MOST_AT_THE_ROOT


def _cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return one cycle of the graph, or an empty list."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if found := visit(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {
        module.name: {name for name, _ in _imports(module) if name in KNOWN and name != module.name}
        for module in MODULES
    }
    assert _cycle(edges) == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (layer_faults, "engine.loop", "from worker_gguf.llama import runner"),
        (layer_faults, "engine.loop", "from worker_gguf import store"),
        (layer_faults, "engine.loop", "def late():\n    import worker_gguf.protocol.chat"),
        (layer_faults, "store.download", "from worker_gguf.engine.request import SamplingParams"),
        (layer_faults, "store.download", "from ..engine import request"),
        (layer_faults, "protocol.chat", "import worker_gguf.http"),
        (layer_faults, "service.service", "from worker_gguf.llama.model import Model"),
        (layer_faults, "newcomer", "import json"),
        (third_party_faults, "engine.loop", "import ctypes"),
        (third_party_faults, "engine.batch", "from dataclasses import dataclass"),
        (third_party_faults, "service", "from llama_cpp import llama_decode"),
        (third_party_faults, "protocol.chat", "from fastapi import FastAPI"),
        (third_party_faults, "protocol.chat", "import runpod.serverless"),
        (purity_faults, "engine.scheduler", "from time import monotonic"),
        (purity_faults, "engine.scheduler", "import numpy as np"),
        (environment_faults, "boot", "import os\nx = os.environ['A']"),
        (environment_faults, "boot", "import os\nx = os.getenv('A')"),
        (environment_faults, "boot", "from os import environ"),
        (size_faults, "boot", "x = 1\n" * 341),
        (size_faults, "boot", "def long():\n" + "    x = 1\n" * 50),
        (docstring_faults, "boot", "x = 1"),
    ],
)
def test_the_rule_catches(rule: Callable[[Module], Iterator[str]], name: str, text: str) -> None:
    assert list(rule(Module(f"{PACKAGE}.{name}", text)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_lets_good_code_pass(rule: Callable[[Module], Iterator[str]]) -> None:
    text = '"""Decides."""\nimport os.path\nfrom worker_gguf.engine.batch import Batch\n'
    assert not list(rule(Module(f"{PACKAGE}.engine.loop", text)))


def test_a_circle_is_found() -> None:
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert _cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
