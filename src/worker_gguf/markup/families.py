"""Finds the call format of a published model family by texts of its chat template."""

from __future__ import annotations

from typing import NamedTuple

from worker_gguf.markup import known_formats as known
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.known_formats import GENERIC, KIMI_K2

__all__ = ["FALLBACKS", "FAMILIES", "GENERIC", "KIMI_K2", "Family", "fallback_format", "known_format"]


class Family(NamedTuple):
    """A row: its name, the texts that a template must have, all of them, and how the model writes."""

    name: str
    in_template: tuple[str, ...]
    format: CallFormat


# Families whose models write what no assistant turn of their template shows, or shows differently. The first row whose
# texts a template has counts.
FAMILIES = (
    Family("gpt-oss", ("<|channel|>", "<|message|>", "analysis", "functions."), known.GPT_OSS),
    Family("granite-3.3", ("<|tool_call|>", "<response>"), known.GRANITE_3_3),
    Family("command-r", ("directly_answer", "Action:"), known.COMMAND_R),
    Family("lfm2", ("<|tool_list_start|>",), known.LFM2),
    Family("llama-4", ("<|header_start|>", "<|python_start|>"), known.LLAMA_4),
)

# Families whose templates show their format, for those templates that cannot be rendered with a call.
FALLBACKS = (
    Family("functionary-3.2", (">>>all",), known.FUNCTIONARY_3_2),
    Family("functionary-3.1", ("<function=", "</function>", "<|python_tag|>"), known.FUNCTIONARY_3_1),
    Family("phi-4-mini", ("<|tool_call|>", "<|/tool_call|>"), known.PHI_4_MINI),
    Family("nemotron-nano-2", ("<TOOLCALL>",), known.NEMOTRON_NANO_2),
    Family("deepseek-4.1", ("｜DSML｜ ", "invoke"), known.DEEPSEEK_V4_1),
    Family("deepseek-3.2", ("｜DSML｜", "function_calls"), known.DEEPSEEK_V3_2),
    Family("deepseek-4", ("｜DSML｜",), known.DEEPSEEK_V4),
    Family("deepseek-r1", ("<｜tool▁calls▁begin｜>", "```json"), known.DEEPSEEK_R1),
    Family("deepseek-3.1", ("<｜tool▁calls▁begin｜>",), known.DEEPSEEK_V3_1),
    Family("kimi-3", ("<|open|>tools<|sep|>",), known.KIMI_K3),
    Family("kimi-2-thinking", ("<|tool_calls_section_begin|>", "<think>"), known.KIMI_K2_THINKING),
    Family("kimi-2", ("<|tool_calls_section_begin|>",), known.KIMI_K2),
    Family("magistral", ("[TOOL_CALLS]", "[ARGS]", "[THINK]"), known.MAGISTRAL),
    Family("mistral-11", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), known.MISTRAL_V11),
    Family("mistral-13", ("[TOOL_CALLS]", "[ARGS]"), known.MISTRAL_V13),
    Family("mistral-3", ("[TOOL_CALLS]",), known.MISTRAL_V3),
    Family("command-r7b", ("<|START_ACTION|>",), known.COMMAND_R7B),
    Family("gemma-4", ("<|tool_call>", "<tool_call|>"), known.GEMMA_4),
    Family("minimax-2", ("<minimax:tool_call>",), known.MINIMAX_M2),
    Family("seed-oss", ("<seed:tool_call>",), known.SEED_OSS),
    Family("glm-4.5", ("</arg_key>\\n", "<arg_value>"), known.GLM_4_5),
    Family("glm-4.7", ("<arg_key>", "<arg_value>"), known.GLM_4_7),
    Family("qwen-3.5", ("<function=", "<parameter=", "<think>"), known.QWEN3_5),
    Family("qwen-3-coder", ("<function=", "<parameter="), known.QWEN3_CODER),
    Family("lfm-2.5", ("<|tool_call_start|>", "<think>"), known.LFM2_5),
    Family("lfm-2.5-instruct", ("List of tools: [",), known.LFM2),
    Family("qwen-3", ("<tool_call>\\n{", "<think>"), known.QWEN3),
    Family("hermes", ("<tool_call>\\n{",), known.HERMES),
    Family("llama-3", ("<|python_tag|>", "<|start_header_id|>"), known.LLAMA_3),
)


def known_format(source: str) -> CallFormat | None:
    """Return the format of a family whose template does not show what its model writes, or None."""
    return _find(FAMILIES, source)


def fallback_format(source: str) -> CallFormat | None:
    """Return the format of a family by its template, for one that cannot be rendered with a call, or None."""
    return _find(FALLBACKS, source)


def _find(rows: tuple[Family, ...], source: str) -> CallFormat | None:
    return next((row.format for row in rows if all(text in source for text in row.in_template)), None)
