"""Tests of the examples in deploy/ and of their page. Only the image, which a user must name, is replaced."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.deployment.conftest import Command
from tests.deployment.fake_runpod import FakeRunpod
from tests.pages import blocks, broken_links
from worker_gguf.cli import main
from worker_gguf.cli.deploy import parser
from worker_gguf.deployment.manifest import Cpu, Gpu, Manifest, Scaling, Volume, Workers
from worker_gguf.deployment.reading import read_manifest
from worker_gguf.errors import ManifestError

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy").glob("deploy*.yaml"))
PAGE = ROOT / "docs" / "deploy.md"


def test_there_is_one_for_each_mode() -> None:
    modes = {read_manifest(path, {}, image="a:1").mode for path in EXAMPLES}
    assert modes == {"queue", "load_balanced"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_image_is_for_the_user_to_name(path: Path) -> None:
    with pytest.raises(ManifestError, match="image still contains the example's"):
        read_manifest(path, {})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_deploys_and_says_nothing_of_concern(path: Path, command: Command, runpod: FakeRunpod) -> None:
    text = path.read_text("utf-8").replace("OWNER", "me").replace("VERSION", "0.1.0")
    ended = command.deploy(text)
    assert (ended.code, ended.err) == (0, "")
    assert "note:" not in ended.out
    assert "env.RUNPOD_INIT_TIMEOUT: 1800" in ended.out
    assert command.deploy(text, "--dry-run").out.count("= keep") == 3


def test_the_lines_that_are_commented_out_are_good_too(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "deploy.yaml").read_text("utf-8")
    for line in re.findall(r"^  # (?:HF_TOKEN|excluded_types): .*$", text, re.MULTILINE):
        path = tmp_path / "deploy.yaml"
        path.write_text(text.replace(line, f"  {line[4:]}"), "utf-8")
        made = read_manifest(path, {"hf_token": "from-the-shell"}, image="a:1")
        assert "HF_TOKEN" in made.env or (made.gpu and made.gpu.excluded_types)


def test_the_page_names_keys_and_commands_that_are() -> None:
    page = PAGE.read_text("utf-8")
    assert broken_links(PAGE) == []
    lines = [line.strip() for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("worker-gguf ")]
    for line in commands:
        parser().parse_args(line.partition("#")[0].split()[1:])
    assert {line.split()[1] for line in commands} == {"deploy", "destroy"}


def test_the_page_lists_every_key() -> None:
    groups: dict[str, type[BaseModel]] = {"gpu": Gpu, "scaling": Scaling, "volume": Volume, "workers": Workers}
    keys = {f"{group}.{key}" for group, model in groups.items() for key in model.model_fields}
    keys |= (Manifest.model_fields.keys() - groups.keys()) | Cpu.model_fields.keys()
    named = set(re.findall(r"`([a-z_.]+)`", PAGE.read_text("utf-8")))
    assert sorted(keys - named) == []


@pytest.mark.parametrize("command_name", ["deploy", "destroy"])
def test_the_command_line_leads_there_and_a_wrong_file_is_2(
    command_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command_name, str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err
