"""`worker-gguf inspect` prints a plan for this machine or a named one, from a file here or on the Hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench import adapters, projectors
from tests import shapes
from tests.fake_hub import FakeHub
from tests.tiny_models import write_attention, write_mixture
from worker_gguf.cli import _parser, main
from worker_gguf.cli.inspect import inspect, parse_sizes
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import SettingsError

GIB = 1 << 30


@pytest.fixture
def moe(tmp_path: Path) -> str:
    return str(shapes.write(shapes.SHAPES["Qwen3-30B-A3B"], tmp_path / "Qwen3-30B-A3B-Q4_K_M.gguf"))


def test_the_embedded_model_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "embedded"]) == 0
    out = capsys.readouterr().out
    assert "llama Q8_0" in out
    assert "main memory" in out
    assert f"\nfile: {MODEL_PATH}\nplanned for: this machine\n" in out
    assert "4.1 M parameters" in out
    rows = {line.split()[0] for line in out.splitlines() if line}
    assert {"N_PARALLEL", "N_CELLS", "N_BATCH", "N_UBATCH", "N_THREADS"} <= rows
    assert "trained for:" not in out


def test_a_gpu_has_the_context_of_the_process_and_the_processor_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "embedded", "--gpu", "24GB", "--ram", "64GB"]) == 0
    out = capsys.readouterr().out
    assert "\nprocess: 0.6 GiB on each GPU for the CUDA context" in out
    assert main(["inspect", "embedded", "--gpu", "none", "--ram", "64GB"]) == 0
    assert "\nprocess: " not in capsys.readouterr().out


def test_a_draft_model_has_rows_of_its_own_and_takes_memory_of_the_model(
    moe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def room() -> float:
        assert main(["inspect", moe, "--gpu", "80GB", "--ram", "64GB"]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("GPU 0"))
        return float(row.split()[-2])

    alone = room()
    draft = shapes.write(shapes.SHAPES["Qwen3-4B"], Path(moe).with_name("draft.gguf"))
    monkeypatch.setenv("DRAFT_MODEL", str(draft))
    assert room() < alone - 1
    assert main(["inspect", moe, "--gpu", "80GB", "--ram", "64GB"]) == 0
    out = capsys.readouterr().out
    assert "\ndraft model: " in out
    assert "\ndraft, GPU 0 of 80.0 GiB  " in out
    assert "\ndraft: guesses for 8 sequences of at most 8192 tokens\n" in out


def test_a_projector_beside_the_model_is_planned_and_another_one_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_attention(tmp_path / "model.gguf")
    mmproj = projectors.write(tmp_path / "mmproj-F16.gguf", projectors.Projector("mlp", 32))
    assert main(["inspect", str(path), "--gpu", "24GB", "--ram", "64GB"]) == 0
    out = capsys.readouterr().out
    assert f"\nprojector: {mmproj}, " in out
    assert "\nprojector: 64." in out
    assert " MiB on GPU 0, for images" in out
    monkeypatch.setenv("MMPROJ", "none")
    assert main(["inspect", str(path), "--gpu", "24GB", "--ram", "64GB"]) == 0
    assert "\nprojector" not in capsys.readouterr().out


def test_a_draft_model_with_another_vocabulary_is_refused_as_at_a_start(
    moe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = shapes.write(shapes.SHAPES["Llama-3.2-1B"], Path(moe).with_name("draft.gguf"))
    monkeypatch.setenv("DRAFT_MODEL", str(draft))
    assert main(["inspect", moe, "--gpu", "80GB"]) == 1
    captured = capsys.readouterr()
    assert f"{draft} cannot draft for {moe}: the draft model has 128256 tokens and the model 151936." in captured.err
    assert "planned for" not in captured.out


def test_an_adapter_takes_memory_beside_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_attention(tmp_path / "model.gguf")
    adapter = adapters.write(tmp_path / "style.gguf", base, rank=4096)

    def weights() -> str:
        assert main(["inspect", str(base), "--gpu", "none", "--ram", "64GB"]) == 0
        out = capsys.readouterr().out
        return next(line for line in out.splitlines() if line.startswith("main memory")).split()[3]

    alone = weights()
    monkeypatch.setenv("LORA", str(adapter))
    assert float(weights()) == pytest.approx(float(alone) + 16.0, abs=0.2)
    assert main(["inspect", str(base), "--gpu", "none"]) == 0
    assert f"\nadapter style: 16.0 MiB\nfile: {adapter}\n" in capsys.readouterr().out
    other = write_mixture(tmp_path / "other.gguf")
    assert main(["inspect", str(other), "--gpu", "none"]) == 1
    assert f"The adapter style of LORA cannot be used with {other}: {adapter} changes" in capsys.readouterr().err


def test_an_adapter_of_a_repository_is_read_on_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_attention(tmp_path / "model.gguf")
    adapter = adapters.write(tmp_path / "style.gguf", base)
    with FakeHub() as hub:
        hub.repo("acme/style", {"style-F32.gguf": adapter.read_bytes()})
        monkeypatch.setenv("LORA", "acme/style")
        arguments = _parser().parse_args(["inspect", str(base), "--gpu", "none", "--ram", "8GB"])
        assert inspect(arguments, endpoint=hub.url) == 0
    from huggingface_hub import close_session

    close_session()
    assert "file: acme/style/style-F32.gguf on the Hub, 0.0 MiB to download" in capsys.readouterr().out


def test_an_adapter_as_the_model_is_refused_with_the_right_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapters.write(tmp_path / "style.gguf", write_attention(tmp_path / "model.gguf"))
    assert main(["inspect", str(adapter), "--gpu", "none"]) == 1
    assert "is an adapter, which only changes a model. Set MODEL to the model, and LORA to the adapter" in (
        capsys.readouterr().err
    )


def test_the_memory_of_an_mtp_layer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(shapes.write(shapes.SHAPES["GLM-4.5-Air"], tmp_path / "glm.gguf"))
    arguments = ["inspect", model, "--gpu", "141GB", "--ram", "64GB"]
    assert main(arguments) == 0
    assert "\nmtp: " not in capsys.readouterr().out
    monkeypatch.setenv("SPECULATION", "mtp")
    assert main(arguments) == 0
    found = re.search(
        r"\nmtp: the model's MTP layer guesses tokens, with (\d\.\d) GiB of this memory\n", capsys.readouterr().out
    )
    assert found
    assert 2.4 < float(found[1]) < 6  # 2.4 GiB are the weights


def test_what_was_weighed_is_one_line(moe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", moe, "--gpu", "80GB", "--ram", "64GB"]) == 0
    out = capsys.readouterr().out
    assert "\nwindow: 40960 tokens for each of 8 requests (the training length of the model): 77.6 GiB on GPU 0" in out
    assert "N_CTX              40960  the training length of the model\n" in out


def test_a_context_beyond_the_training_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "embedded", "--n-ctx", "4096", "--n-parallel", "1"]) == 0
    assert "N_CTX=4096 is beyond the 2048 tokens the model was trained for: expect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "24GB"], "1 x 24 GB, the free main memory of this machine"),
        (["--gpu", "24GB,16GB,24GB", "--ram", "64GB"], "2 x 24 GB + 1 x 16 GB, 64 GB of main memory"),
        (["--gpu", "none", "--ram", "1.5GB"], "no GPU, 1.5 GB of main memory"),
        (["--ram", "64GB"], "this machine, with 64 GB of main memory"),
    ],
)
def test_what_it_is_planned_for(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "embedded", *arguments]) == 0
    assert f"\nplanned for: {said}\n" in capsys.readouterr().out


def test_a_named_card(moe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", moe, "--gpu", "24GB", "--ram", "64GB"]) == 0
    out = capsys.readouterr().out
    assert "GPU 0 of 24.0 GiB" in out
    assert "everything fits on the GPU" in out


def test_two_small_cards_and_experts_in_main_memory(moe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", moe, "--gpu", "6GB,4GB", "--ram", "64GB", "--n-ctx", "4096"]) == 0
    out = capsys.readouterr().out
    assert "TENSOR_SPLIT" in out
    assert "layers stay in main memory" in out
    assert "4096  set" in out


def test_the_error_of_too_little_memory_proposes_what_would_fit(moe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", moe, "--gpu", "none", "--ram", "20GB", "--n-ctx", "32768", "--n-parallel", "8"]) == 1
    assert "N_CTX=8192 would fit" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--gpu", "many"], ["--ram", "0GB"], ["--n-ctx", "1"], ["--type-k", "q9"]], ids=" ".join
)
def test_wrong_arguments_are_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "embedded", *arguments]) == 2
    assert capsys.readouterr().err


def test_a_list_of_models_is_refused_until_one_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", "b=/nowhere.gguf, a=embedded")
    assert main(["inspect"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "MODELS lists several. Name one" in said.err
    assert main(["inspect", "embedded"]) == 0


def test_a_reader_that_leaves_ends_it_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "worker_gguf", "inspect", "embedded"]
    with os.fdopen(writing) as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_model_that_is_still_on_the_hub(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    arguments = _parser().parse_args(["inspect", "org/repo", "--gpu", "24GB", "--ram", "32GB"])
    with FakeHub() as hub:
        hub.repo("org/repo", {"m-Q8_0.gguf": MODEL_PATH.read_bytes()})
        assert inspect(arguments, endpoint=hub.url) == 0
        assert hub.bytes_served < MODEL_PATH.stat().st_size
        assert not list(tmp_path.iterdir())
    from huggingface_hub import close_session

    close_session()
    assert "file: org/repo/m-Q8_0.gguf on the Hub, 4.2 MiB to download" in capsys.readouterr().out


def test_sizes() -> None:
    assert parse_sizes("24GB, 16 GiB,0.5T,8") == [24 * GIB, 16 * GIB, 512 * GIB, 8 * GIB]
    with pytest.raises(SettingsError, match="not a size"):
        parse_sizes("24GB,,")
