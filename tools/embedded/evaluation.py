"""Measures the GGUF: held-out accuracy by category, and the effect of wrong use."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.embedded import corpus, template
from tools.embedded.conversation import Conversation, Json
from tools.embedded.oracle import Oracle

N_EACH = 25

Mistake = Callable[[Oracle, Json], str]


def report(package: Path, written: Path, seed: int) -> None:
    """Print and write the two tables that docs/embedded-model.md shows."""
    with Oracle(package / "model.gguf") as oracle:
        published = json.loads((package / "prompts.json").read_text(encoding="utf-8"))
        lines = [*held_out_table(oracle, seed), "", *mistake_table(oracle, published)]
    text = "\n".join(lines) + "\n"
    written.write_text(text, encoding="utf-8")
    print(text)


def held_out_table(oracle: Oracle, seed: int) -> list[str]:
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for conversation in corpus.held_out(seed, N_EACH):
        asked[conversation.category] += 1
        right[conversation.category] += is_right(oracle, conversation)
    lines = ["| held-out category | asked | exactly right |", "|---|---:|---:|"]
    lines += [f"| {name} | {n} | {right[name] / n:.0%} |" for name, n in sorted(asked.items())]
    lines.append(f"| all | {asked.total()} | {right.total() / asked.total():.0%} |")
    return lines


def is_right(oracle: Oracle, conversation: Conversation) -> bool:
    answer = oracle.ask(conversation.prompt, conversation.tools)
    return answer.text == conversation.last_answer


def mistake_table(oracle: Oracle, published: Sequence[Json]) -> list[str]:
    lines = ["| mistake | prompts that fail | of |", "|---|---:|---:|"]
    for name, mistake in MISTAKES.items():
        failed = sum(mistake(oracle, prompt) != prompt["expected"] for prompt in published)
        lines.append(f"| {name} | {failed} | {len(published)} |")
    return lines


def rendered(prompt: Json, *, skip_system: bool = False, skip_tools: bool = False) -> str:
    messages = [m for m in prompt["messages"] if not (skip_system and m["role"] == "system")]
    tools = () if skip_tools else prompt.get("tools", ())
    return template.render(messages, tools, add_generation_prompt=True)


def said(oracle: Oracle, prompt: Json, text: str) -> str:
    return oracle.complete(text, prompt["max_tokens"]).text


def without(part: str) -> Mistake:
    return lambda oracle, prompt: said(oracle, prompt, rendered(prompt).replace(part, ""))


def no_generation_prompt(oracle: Oracle, prompt: Json) -> str:
    text = template.render(prompt["messages"], prompt.get("tools", ()), add_generation_prompt=False)
    return said(oracle, prompt, text)


def two_bos(oracle: Oracle, prompt: Json) -> str:
    return said(oracle, prompt, template.BOS + rendered(prompt))


def no_system(oracle: Oracle, prompt: Json) -> str:
    return said(oracle, prompt, rendered(prompt, skip_system=True))


def no_tools(oracle: Oracle, prompt: Json) -> str:
    return said(oracle, prompt, rendered(prompt, skip_tools=True))


def last_message_only(oracle: Oracle, prompt: Json) -> str:
    return said(oracle, prompt, rendered({**prompt, "messages": prompt["messages"][-1:]}))


def chatml(oracle: Oracle, prompt: Json) -> str:
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in prompt["messages"]]
    return said(oracle, prompt, "".join(turns) + "<|im_start|>assistant\n")


def specials_as_text(oracle: Oracle, prompt: Json) -> str:
    """Break the markers, so that they are read as text and not as control tokens."""
    return said(oracle, prompt, rendered(prompt).replace("<|", "< |"))


def misplaced(*, start: int = 0, shift: int = 0) -> Mistake:
    def ask(oracle: Oracle, prompt: Json) -> str:
        tokens = oracle.tokenize(rendered(prompt))
        return oracle.follow(tokens, prompt["max_tokens"], start=start, shift=shift).text

    return ask


def token_lost(oracle: Oracle, prompt: Json) -> str:
    """Return the answer after a prefix whose length was counted one too long."""
    tokens = oracle.tokenize(rendered(prompt))
    del tokens[len(tokens) // 2]
    return oracle.follow(tokens, prompt["max_tokens"]).text


def token_twice(oracle: Oracle, prompt: Json) -> str:
    """Return the answer after a prefix whose length was counted one too short."""
    tokens = oracle.tokenize(rendered(prompt))
    tokens.insert(len(tokens) // 2, tokens[len(tokens) // 2])
    return oracle.follow(tokens, prompt["max_tokens"]).text


def last_token_lost(oracle: Oracle, prompt: Json) -> str:
    tokens = oracle.tokenize(rendered(prompt))
    return oracle.follow(tokens[:-1], prompt["max_tokens"]).text


MISTAKES: dict[str, Mistake] = {
    "none": lambda oracle, prompt: said(oracle, prompt, rendered(prompt)),
    "no generation prompt": no_generation_prompt,
    "no `<\\|eot_id\\|>`": without("<|eot_id|>"),
    "no user headers": without("<|start_header_id|>user<|end_header_id|>\n\n"),
    "no blank line after headers": without("\n\n"),
    "no `<\\|begin_of_text\\|>`": without(template.BOS),
    "two `<\\|begin_of_text\\|>`": two_bos,
    "system message dropped": no_system,
    "tools dropped": no_tools,
    "only the last message": last_message_only,
    "another template (ChatML)": chatml,
    "markers read as text": specials_as_text,
    "last prompt token lost": last_token_lost,
    "middle prompt token lost": token_lost,
    "middle prompt token twice": token_twice,
    "later half moved by 1 position": misplaced(shift=1),
    "later half moved by 16 positions": misplaced(shift=16),
    "later half moved by 256 positions": misplaced(shift=256),
    "everything starts at position 100": misplaced(start=100),
}
