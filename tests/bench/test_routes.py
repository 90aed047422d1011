"""Parts of `python -m bench.routes` in a tiny form on real workers. No time and no speed is asserted."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from bench import models
from bench.gguf_file import TensorType
from bench.models import Shape
from bench.routes import lora
from bench.serving.servers import Setup

TINY = Shape("tiny-routes", 1, 64, 64, 2, 1, 1024, 7, TensorType.Q8_0, TensorType.Q8_0)
SIZES = lora.Sizes(at_once=2, prompt_tokens=12, max_tokens=32, rank=2)


def test_lora_compares_waves_over_one_adapter_and_over_two(tmp_path: Path) -> None:
    setup = Setup(rounds=1, cache=tmp_path, worker_env={"N_THREADS": "1"})
    lora.measure(setup, models.ensure(TINY, tmp_path), SIZES)
    figures = setup.findings.figures()
    ratio = figures["lora_two_tokens_per_s"] / figures["lora_one_tokens_per_s"]
    assert figures["lora_two_adapters_ratio"] == pytest.approx(ratio)
    assert figures["lora_two_ttft_ms"] > 0 < figures["lora_one_ttft_ms"]


@pytest.mark.benchmark
def test_lora_sends_the_same_requests_to_a_peer(tmp_path: Path) -> None:
    # The options of llama-server at the end become arguments of `sh`, which takes the adapters from them.
    command = f"sh -c 'LORA=$2,$4 exec {sys.executable} -m worker_gguf.cli serve' sh"
    own = "MODE=http HOST=127.0.0.1 PORT={port} MODEL={model} N_PARALLEL={n_parallel} N_CTX={n_ctx} N_THREADS=1"
    setup = Setup(
        rounds=2,
        cache=tmp_path,
        worker_env={"N_THREADS": "1"},
        peer_command=f"env {own} LOG_LEVEL=warning {command}",
        peer_name="other",
        peer_ready="/ping",
    )
    lora.measure(setup, models.ensure(TINY, tmp_path), SIZES)
    measured = setup.findings.measured
    assert len(measured["other_lora_two_adapters_ratio"]) == len(measured["lora_two_adapters_ratio"]) == 2
    ours, theirs = measured["lora_two_adapters_ratio"], measured["other_lora_two_adapters_ratio"]
    assert measured["lora_over_llama_server"] == pytest.approx([a / b for a, b in zip(ours, theirs, strict=True)])
    assert not any(map(math.isnan, ours))
