"""The PromQL expressions of the dashboard and of the alerts in deploy/, and the names in each of them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEPLOY", "Expression", "expressions"]

DEPLOY = Path(__file__).parents[2] / "deploy"

# Put there by the scrape, not by the worker.
OF_THE_SCRAPE = {"job", "instance"}


@dataclass(frozen=True)
class Expression:
    where: str
    text: str

    def selectors(self) -> list[tuple[str, dict[str, str]]]:
        """Metrics with the labels they are selected by. `up` is Prometheus' own."""
        found = re.findall(r"\b((?:worker_gguf|process)_\w+)(?:\{([^}]*)\})?", self.text)
        return [(name, dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', inner))) for name, inner in found]

    def grouping(self) -> set[str]:
        """Labels that something is grouped, matched or joined by."""
        lists = re.findall(r"\b(?:by|on|group_left|ignoring|without)\s*\(([^)]*)\)", self.text)
        return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


def expressions() -> list[Expression]:
    return [*_of_dashboard(), *_of_alerts()]


def _of_dashboard() -> list[Expression]:
    document = json.loads((DEPLOY / "grafana" / "worker-gguf.json").read_text("utf-8"))
    variables = [
        Expression(f"${variable['name']}", variable["definition"].removeprefix("label_values(").rpartition(",")[0])
        for variable in document["templating"]["list"]
        if variable["type"] == "query"
    ]
    return variables + [
        Expression(panel["title"], _resolved(target["expr"]))
        for panel in document["panels"]
        for target in panel.get("targets", [])
    ]


def _resolved(text: str) -> str:
    """Replace variables as Grafana does."""
    return text.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")


def _of_alerts() -> list[Expression]:
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8")
    blocks = re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]
    found = [
        (block.split()[0], re.search(r"expr:(?: >-)?\s*(.*?)\n +(?:for|labels):", block, re.DOTALL)) for block in blocks
    ]
    return [Expression(name, " ".join(match[1].split())) for name, match in found if match]
