"""Tests of the dashboard and the alerts, as generated and as Prometheus reads them. tests/e2e compares their names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.promql import DEPLOY, Expression, expressions
from tests.pages import broken_links
from tools.grafana.__main__ import PATH, text

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
DASHBOARD = json.loads(PATH.read_text("utf-8"))


def run(*arguments: object, cwd: Path = DEPLOY / "prometheus") -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_agrees_with_its_table() -> None:
    assert PATH.read_text("utf-8") == text(), "run `make docs`"


def test_panels_have_an_id_a_meaning_and_a_place_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"].endswith(".") for panel in panels if panel["type"] != "row")
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_rows_have_the_figures_for_an_operator() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Requests", "Latency", "Tokens", "Slots & memory", "Cold start", "Errors"]


def test_every_query_of_a_panel_is_narrowed_to_the_chosen_endpoint_and_worker() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            n_metrics = len(re.findall(r"\b(?:worker_gguf|process)_\w+", target["expr"]))
            assert target["expr"].count('job=~"$job", instance=~"$instance"') == n_metrics >= 1, target["expr"]
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_alert_has_a_summary_and_a_next_step() -> None:
    alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8").split("- alert: ")[1:]
    assert len(alerts) == len(set(alerts)) >= 12
    for alert in alerts:
        assert re.search(r"summary: .*\.\"$", alert, re.MULTILINE), alert
        assert "runbook: >-" in alert, alert
        assert re.search(r"severity: (page|ticket|info)", alert), alert


def test_the_page_is_true() -> None:
    page = DEPLOY.parent / "docs" / "observability.md"
    assert broken_links(page) == []
    n_alerts = (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8").count("- alert:")
    assert f"has {n_alerts} rules" in page.read_text("utf-8")


def test_every_alert_is_fired_by_a_test() -> None:
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
    assert [alert for alert in alerts if alert not in tested] == []


def test_no_expression_is_lost_on_the_way_to_the_checks() -> None:
    alerts = re.findall(r"- alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
    where = [expression.where for expression in expressions()]
    assert set(alerts) < set(where)
    assert {"$job", "$instance", "KV memory"} < set(where)
    assert all(expression.text for expression in expressions())


def test_names_and_labels_are_read_out_of_promql() -> None:
    expression = Expression("x", 'sum by (le, a) (rate(worker_gguf_x_total{b=~"1|2", c!="3"}[5m])) / worker_gguf_y')
    assert expression.selectors() == [("worker_gguf_x_total", {"b": "1|2", "c": "3"}), ("worker_gguf_y", {})]
    assert expression.grouping() == {"le", "a"}


@promtool
def test_prometheus_takes_the_alerts_and_they_fire_when_they_should() -> None:
    run("check", "rules", "alerts.yml")
    run("test", "rules", "alerts_test.yml")


@promtool
def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"of:query:{i}", "expr": expression.text} for i, expression in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    run("check", "rules", "--lint=none", "rules.yml", cwd=tmp_path)
