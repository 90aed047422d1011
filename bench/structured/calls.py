"""Recorded answers with tool calls through the parser: how many are read right, and whether a call is ever lost.

`fixtures_right` is the share of canitoolcall's recorded answers that pass its own checks, whole and in every chunking.
`lost_calls` counts the answers, of 2,000 that are streamed in random pieces, whose calls are not those of the whole
answer.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from canitoolcall.checks import case_status, run_checks
from canitoolcall.fixtures import Fixture
from canitoolcall.results import ParsedToolCall, ParseResult, Status

from bench.serving.findings import Findings
from tests.markup.replay import all_fixtures, family_of, format_of, observe, parse


@dataclass(frozen=True, slots=True)
class Sizes:
    streams: int = 2000
    longest_piece: int = 12  # in characters


def measure(findings: Findings, sizes: Sizes = Sizes(), seed: int = 0) -> None:
    by_family: dict[str, Counter[Status]] = {}
    for fixture in all_fixtures():
        observed = observe(fixture, _parser_of(fixture))
        status = case_status(run_checks(fixture, family_of(fixture), observed))
        by_family.setdefault(fixture.family, Counter())[status] += 1
    for family, found in sorted(by_family.items()):
        findings.notes.append(f"{family}: " + ", ".join(f"{n} {status.value}" for status, n in sorted(found.items())))
    total = sum(by_family.values(), Counter())
    findings.add("fixtures", total.total())
    findings.add("fixtures_passed", total[Status.PASS])
    findings.add("fixtures_right", (total[Status.PASS] + total[Status.SOFT_PASS]) / total.total())
    rng = random.Random(seed)
    calling = [fixture for fixture in all_fixtures() if _calls(fixture, [fixture.raw_output])]
    lost = [fixture.id for fixture in rng.choices(calling, k=sizes.streams) if _is_lost(fixture, rng, sizes)]
    findings.notes += lost[:20]
    findings.add("lost_calls", len(lost))


def _parser_of(fixture: Fixture) -> Callable[[Sequence[str]], ParseResult]:
    return lambda pieces: parse(fixture, pieces, format_of(fixture), holds_calls=True)


def _calls(fixture: Fixture, pieces: list[str]) -> tuple[ParsedToolCall, ...]:
    return parse(fixture, pieces, format_of(fixture), holds_calls=False).tool_calls


def _is_lost(fixture: Fixture, rng: random.Random, sizes: Sizes) -> bool:
    text, pieces = fixture.raw_output, []
    while text:
        n = rng.randint(1, sizes.longest_piece)
        pieces.append(text[:n])
        text = text[n:]
    return _calls(fixture, pieces) != _calls(fixture, [fixture.raw_output])
