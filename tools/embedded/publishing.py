"""Publishes the candidates that the GGUF answers exactly and surely, and names the others."""

import json
from dataclasses import dataclass
from pathlib import Path

from tools.embedded.candidates import Candidate, candidates
from tools.embedded.conversation import Json
from tools.embedded.oracle import Answer, Oracle

# A smaller gap could flip with another batch shape, CPU kernel or GPU.
MIN_MARGIN = 1.0
SPARE_TOKENS = 8
FEWEST = 70


@dataclass(frozen=True, slots=True)
class Trial:
    candidate: Candidate
    answer: Answer

    @property
    def is_exact(self) -> bool:
        return self.answer.finished and self.answer.text == self.candidate.conversation.last_answer

    @property
    def is_published(self) -> bool:
        return self.is_exact and self.answer.margin >= MIN_MARGIN


def publish(model: Path, prompts: Path) -> list[Trial]:
    with Oracle(model) as oracle:
        trials = [Trial(c, oracle.ask(c.conversation.prompt, c.conversation.tools)) for c in candidates()]
    published = [entry(trial) for trial in trials if trial.is_published]
    for trial in trials:
        if not trial.is_published:
            print(f"left out {trial.candidate.name}: margin {trial.answer.margin:.2f}, "
                  f"said {trial.answer.text[:100]!r}")  # fmt: skip
    least = min(t.answer.margin for t in trials if t.is_published)
    exact = sum(t.is_exact for t in trials)
    print(f"{len(trials)} candidates, {exact} exact, {len(published)} published, least margin {least:.2f}")
    if len(published) < FEWEST:
        raise SystemExit(f"Only {len(published)} prompts are sure; {FEWEST} are needed.")
    prompts.write_text(json.dumps(published, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return trials


def entry(trial: Trial) -> Json:
    conversation = trial.candidate.conversation
    written: Json = {"name": trial.candidate.name, "messages": list(conversation.prompt)}
    if conversation.tools:
        written["tools"] = list(conversation.tools)
    written["expected"] = trial.answer.text
    written["max_tokens"] = trial.answer.n_tokens + SPARE_TOKENS
    return written
