"""Reads Markdown pages: their code blocks and their broken links."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["blocks", "broken_links"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def broken_links(path: Path) -> list[str]:
    """Relative links to files that are not there, and to headings that are not in them."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "code", path.read_text("utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    return [link for link in links if not _leads_somewhere(path, link)]


def _leads_somewhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    return target.exists() and (not anchor or anchor in _anchors(target.read_text("utf-8")))


def _anchors(page: str) -> set[str]:
    """Return the names that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
