"""Each part of `python -m bench.serving` in a tiny form on real workers. No time and no speed is asserted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import models, projectors
from bench.gguf_file import TensorType
from bench.load import Answer
from bench.models import Shape
from bench.process import memory_mb
from bench.routes import image
from bench.serving import long_prompt, lookup, restored, shared_prefix
from bench.serving.__main__ import main
from bench.serving.findings import BOUNDS, Bound, Findings
from bench.serving.long_prompt import Watched
from bench.serving.picture import Panel, gap_picture
from bench.serving.quoting import quoted_share, quoting_prompts
from bench.serving.servers import Setup
from worker_gguf.embedded import MODEL_PATH

# The prompts of most parts are counted in tokens of the benchmark's vocabulary, which the embedded model does not have.
TINY = Shape("tiny-serving", 1, 64, 64, 2, 1, 1024, 7, TensorType.Q8_0, TensorType.Q8_0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.ensure(TINY, tmp_path_factory.mktemp("models"))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(rounds=1, cache=tmp_path, worker_env={"N_THREADS": "1"})


def test_shared_prefix_counts_the_computed_tokens_of_all_requests(setup: Setup, model: Path) -> None:
    sizes = shared_prefix.Sizes(requests=5, at_once=2, shared_tokens=60, own_tokens=6, max_tokens=4)
    shared_prefix.measure(setup, model, sizes)
    # At least the limit, and at most every token of every prompt.
    assert 1 <= setup.findings.figures()["shared_prefix_tokens_ratio"] <= 5 * 66 / (60 + 5 * 6)


def test_shared_prefix_ratio_is_of_the_shared_tokens_once_and_the_own_tokens() -> None:
    sizes = shared_prefix.Sizes(shared_tokens=100, own_tokens=10)
    answers = [Answer(prompt_tokens=110, cached_tokens=cached) for cached in (0, 100, 55)]
    assert shared_prefix.tokens_ratio(answers, sizes) == pytest.approx((110 + 10 + 55) / (100 + 30))


def test_restored_times_the_return_and_the_computed_prompts(setup: Setup, model: Path) -> None:
    restored.measure(setup, model, restored.Sizes(conversation_tokens=80, new_tokens=5, max_tokens=3))
    figures = setup.findings.figures()
    assert figures["restored_over_computed"] == pytest.approx(figures["restored_ms"] / figures["computed_ms"])
    assert 0 <= figures["restored_cached_share"] <= 1


def test_long_prompt_watches_the_streams_and_draws_them(setup: Setup, model: Path) -> None:
    sizes = long_prompt.Sizes(
        streams=2, stream_tokens=900, long_tokens=200, settled_tokens=3, quiet_s=0.05, after_s=0.0, max_tokens=2
    )
    long_prompt.measure(setup, model, sizes)
    figures = setup.findings.figures()
    ratio = figures["long_prompt_gap_p99_ms"] / figures["long_prompt_gap_p99_before_ms"]
    assert figures["long_prompt_tpot_ratio"] == pytest.approx(ratio)
    assert figures["long_prompt_ttft_ms"] > 0
    assert setup.findings.picture is not None


def test_image_watches_the_streams_of_a_model_that_sees(setup: Setup, model: Path, tmp_path: Path) -> None:
    streams = long_prompt.Sizes(streams=2, stream_tokens=900, settled_tokens=3, quiet_s=0.05, after_s=0.0)
    projector = projectors.write(tmp_path / "mmproj.gguf", projectors.Projector("mlp", 64, image_size=56))
    image.measure(setup, model, projector, image.Sizes(streams, max_tokens=2))
    figures = setup.findings.figures()
    assert figures["image_tpot_ratio"] == pytest.approx(
        figures["image_gap_p99_ms"] / figures["image_gap_p99_before_ms"]
    )
    assert figures["image_ttft_ms"] > 0


def test_a_stall_that_begins_before_the_first_token_counts_however_late_it_ends() -> None:
    gaps = ((-1.9, 10.0), (-0.5, 20.0), (0.01, 30.0), (2.5, 2_490.0), (2.51, 10.0))
    seen = Watched(gaps, first_token_s=2.0, quiet_s=1.0)
    assert seen.before == [20.0]
    assert seen.during == [30.0, 2_490.0]
    assert seen.ratio == pytest.approx(2_490 / 20)


@pytest.mark.benchmark
def test_lookup_compares_workers_with_it_and_without(setup: Setup, model: Path) -> None:
    sizes = lookup.Sizes(
        quoting=1, quoting_tokens=12, others=2, other_tokens=6, at_once=2, requests=4, prompt_tokens=20, max_tokens=6
    )
    lookup.measure(setup, MODEL_PATH, model, sizes)
    figures = setup.findings.figures()
    assert figures["lookup_compared"] == 3
    assert figures["lookup_equal"] == 1
    assert figures["lookup_speedup_c1"] > 0
    assert figures["lookup_cost_c32"] > 0


@pytest.mark.benchmark
def test_soak_ends_every_request_rightly_and_writes_its_figures(tmp_path: Path) -> None:
    name = ["--name", "run", "--results", str(tmp_path), "--cache", str(tmp_path)]
    # Growth after so few requests says nothing, so the exit status may be either.
    assert main(["soak", "--requests", "60", *name]) in (0, 1)
    written = json.loads((tmp_path / "run.json").read_text())
    figures = written["figures"]
    assert figures["soak_wrong"] == 0, written["notes"]
    assert sum(figures[f"soak_{end}"] for end in ("whole", "streamed", "refused", "left")) == 60
    assert list(figures)[-1] == "soak_growth"
    assert (tmp_path / "run.txt").read_text().splitlines()[-1].startswith("soak_growth ")


@pytest.mark.benchmark
def test_a_peer_is_measured_beside_the_worker(tmp_path: Path, model: Path) -> None:
    command = (
        "env MODE=http HOST=127.0.0.1 PORT={port} MODEL={model} N_PARALLEL={n_parallel} N_CTX={n_ctx} N_THREADS=1 "
        "LOG_LEVEL=warning {python} -m worker_gguf.cli serve"
    )
    command = command.replace("{python}", sys.executable)
    setup = Setup(rounds=2, cache=tmp_path, peer_command=command, peer_name="other", peer_ready="/ping")
    restored.measure(setup, model, restored.Sizes(conversation_tokens=40, others=1, new_tokens=5, max_tokens=3))
    assert len(setup.findings.measured["other_restored_ms"]) == len(setup.findings.measured["restored_ms"]) == 2


def test_figures_are_medians_and_those_with_a_bound_come_last() -> None:
    findings = Findings({"model": "tiny"})
    for value in (0.5, 0.1, 0.2):
        findings.add("restored_over_computed", value)
        findings.add("restored_ms", value * 100)
    findings.add("lookup_speedup_c1", 1.2)
    assert findings.figures() == {"restored_ms": 20, "restored_over_computed": 0.2, "lookup_speedup_c1": 1.2}
    assert findings.missed() == ["lookup_speedup_c1"]
    printed = findings.text().splitlines()
    assert printed[-2:] == ["restored_over_computed 0.200", "lookup_speedup_c1 1.200"]
    assert next(line for line in printed if line.endswith("MISSED")).split() == [
        *("lookup_speedup_c1", "1.200", "1.200", "1.200", ">=", "1.5", "MISSED")
    ]


def test_a_bound_is_itself_good() -> None:
    assert Bound(1.1).admits(1.1)
    assert not Bound(1.1).admits(1.2)
    assert Bound(1.5, at_least=True).admits(1.5)
    assert not Bound(1.5, at_least=True).admits(1.4)
    assert str(BOUNDS["lookup_cost_c32"]) == ">= 0.98"


def test_quotations_are_rows_of_four_words() -> None:
    prompt = "copy this: one two three four five six"
    assert quoted_share("one two three four five six", prompt) == 1
    assert quoted_share("one two three 4 five six", prompt) == 0
    assert quoted_share("Sure! Here: two three four five", prompt) == pytest.approx(4 / 6)
    assert quoted_share("", prompt) == 0


def test_quoting_prompts_are_always_the_same_and_all_different() -> None:
    assert quoting_prompts(8) == quoting_prompts(8)
    assert len(set(quoting_prompts(8))) == 8


def test_the_picture_has_a_panel_for_each_server() -> None:
    points = ((-0.5, 10.0), (0.2, 400.0), (1.4, 12.0))
    picture = gap_picture([Panel("worker", points, 0.9), Panel("a & b", points, 0.5)])
    texts = [element.text for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]
    assert {"worker", "a & b", "0 s", "1 s", "100", "1000"} <= set(texts)


def test_unknown_parts_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["shared_prefix"])
    assert "The parts are shared-prefix, restored, long-prompt, lookup, soak" in capsys.readouterr().err


def test_memory_of_this_process_is_counted() -> None:
    assert memory_mb(os.getpid()) > 5
