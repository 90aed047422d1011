import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import report

UNIFIED, SPLIT = report.LIMITS[True], report.LIMITS[False]


def record() -> report.Record:
    made = report.Record({"model": "tiny"})
    for limit, worker in ((100.0, 80.0), (50.0, 45.0), (200.0, 150.0)):
        made.add(1, UNIFIED, {"tokens_per_s": limit - 10, "peak_memory_mb": 100.0})
        made.add(1, SPLIT, {"tokens_per_s": limit, "peak_memory_mb": 110.0})
        made.add(1, "worker", {"tokens_per_s": worker, "ttft_p50_ms": 5.0, "peak_memory_mb": 160.0})
        made.add(1, "peer", {"tokens_per_s": worker / 2})
    made.ping_p99_ms += [3.0, 2.0, 9.0]
    return made


def test_the_limit_is_the_better_kv_layout_and_ratios_are_of_each_round() -> None:
    figures = report.figures(record())
    assert figures["limit_ratio_c1"] == pytest.approx(0.8)  # of 0.80, 0.90, 0.75
    assert figures["peer_limit_ratio_c1"] == pytest.approx(0.4)
    assert figures["limit_tokens_per_s_c1"] == 100.0
    assert figures["memory_over_limit_mb"] == 50.0
    assert list(figures)[-3:] == ["limit_ratio_c1", "ping_p99_ms", "memory_over_limit_mb"]


def test_the_last_lines_are_name_and_value(tmp_path: Path) -> None:
    printed = report.save(record(), tmp_path, "run")
    assert printed.splitlines()[-3:] == ["limit_ratio_c1 0.800", "ping_p99_ms 3.0", "memory_over_limit_mb 50.0"]
    assert (tmp_path / "run.txt").read_text() == printed + "\n"
    assert json.loads((tmp_path / "run.json").read_text())["figures"]["ping_p99_ms"] == 3.0
    texts = [element.text for element in ElementTree.parse(tmp_path / "run.svg").iter() if element.tag.endswith("text")]
    assert {"limit", "worker", "peer", "1 at once", "80"} <= set(texts)


def test_without_a_worker_there_is_still_a_report(tmp_path: Path) -> None:
    made = report.Record({})
    made.add(8, UNIFIED, {"tokens_per_s": 10.0, "peak_memory_mb": 1.0})
    assert report.save(made, tmp_path, "run").splitlines()[-1] == "limit_tokens_per_s_c8 10.0"
