"""What the models of published templates write, as the probe reads it off the templates: see specimen.py."""

from __future__ import annotations

__all__ = ["WRITTEN"]

WRITTEN = {
    "Apertus-8B-Instruct": (
        '<|inner_prefix|>R<|inner_suffix|>C<|tools_prefix|>[{"f": {"a": "x", "b": 1}}, {"g": {}}]<|tools_suffix|>'
    ),
    "Apriel-1.6-15b-Thinker-fixed": (
        "Here are my reasoning steps:\nR\n[BEGIN FINAL RESPONSE]\nC\n"
        '<tool_calls>[{"name": "f", "arguments": {"a": "x", "b": 1}}, {"name": "g", "arguments": {}}]'
        "</tool_calls>"
    ),
    "ByteDance-Seed-OSS": (
        "<seed:think>R</seed:think>\nC\n\n<seed:tool_call>\n<function=f>\n<parameter=a>x</parameter>\n"
        "<parameter=b>1</parameter>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=g>\n"
        "</function>\n</seed:tool_call>"
    ),
    "Cohere2MoE": (
        "<|START_THINKING|>R<|END_THINKING|><|START_TEXT|>C<|END_TEXT|>"
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "x", "b": 1}},'
        '\n    {"tool_call_id": "1", "tool_name": "g", "parameters": {}}]'
        "<|END_ACTION|>"
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (
        "<|START_THINKING|>R<|END_THINKING|><|START_RESPONSE|>C<|END_RESPONSE|>"
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "x", "b": 1}},'
        '\n    {"tool_call_id": "1", "tool_name": "g", "parameters": {}}]'
        "<|END_ACTION|>"
    ),
    "GLM-4.6": (
        "<think>R</think>\nC\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n<arg_key>b"
        "</arg_key>\n<arg_value>1</arg_value>\n</tool_call>\n<tool_call>g\n</tool_call>"
    ),
    "GigaChat3-10B-A1.8B": (
        'C<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "f", "arguments": {"a": "x", "b": 1}}'
    ),
    "GigaChat3.1-10B-A1.8B": 'C<|function_call|>{"name": "f", "arguments": {"a": "x", "b": 1}}',
    "Kimi-K2-Instruct": (
        "C<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
        '<|tool_call_argument_begin|>{"a": "x", "b": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "Kimi-K2-Thinking": (
        "<think>R</think>C<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0"
        '<|tool_call_argument_begin|>{"a": "x", "b": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "LFM2.5-8B-A1B": "<think>R</think>C<|tool_call_start|>[f(a='x', b=1), g()]<|tool_call_end|>",
    "MiMo-VL": (
        'C\n<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    ),
    "MiniMax-M1": (
        'C<tool_calls>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n{"name": "g", "arguments": {}}\n</tool_calls>'
    ),
    "MiniMax-M3": (
        '<mm:think>R</mm:think>C]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="f">]<]minimax[>[<a>x]'
        "<]minimax[>[</a>]<]minimax[>[<b>1]<]minimax[>[</b>]<]minimax[>[</invoke>\n]<]minimax[>["
        '<invoke name="g">]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>'
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": (
        'C[TOOL_CALLS]f[CALL_ID]call00000[ARGS]{"a": "x", "b": 1}[TOOL_CALLS]g[CALL_ID]call00001[ARGS]{}'
    ),
    "NVIDIA-Nemotron-Nano-v2": (
        "<think>\nR\n</think>\n\nC"
        '<TOOLCALL>[{"name": "f", "arguments": {"a": "x", "b": 1}}, {"name": "g", "arguments": {}}]</TOOLCALL>'
    ),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": (
        'C<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    ),
    "Qwen-QwQ-32B": (
        '<think>\nR\n</think>C\n<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    ),
    "Qwen-Qwen2.5-7B-Instruct": (
        'C\n<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    ),
    "Qwen3-Coder": (
        "C\n\n<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=b>\n1\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>"
    ),
    "Qwen3.5-4B": (
        "<think>\nR\n</think>\n\nC\n\n<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n"
        "<parameter=b>\n1\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n"
        "</tool_call>"
    ),
    "Spark2.5": (
        "<think>R</think>C<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value><arg_key>b</arg_key>"
        "<arg_value>1</arg_value></tool_call><tool_call>g</tool_call>"
    ),
    "StepFun3.5-Flash": (
        "<think>\nR\n</think>\nC<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n<parameter=b>\n1\n"
        "</parameter>\n</function>\n</tool_call><tool_call>\n<function=g>\n</function>\n</tool_call>"
    ),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": (
        "<think>\nR\n</think>C<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
        '<｜tool▁sep｜>f\n```json\n{"a": "x", "b": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
        "<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek-ai-DeepSeek-V3.1": (
        '<think>R</think>C<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "x", "b": 1}'
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek-ai-DeepSeek-V4-Flash-0731": (
        '<think>R</think>C\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
        '<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="b" string="false">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="g">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    ),
    "deepseek-ai-DeepSeek-V4": (
        '<think>R</think>C\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n'
        '<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="b" string="false">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="g">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    ),
    "google-gemma-4-31B-it-interleaved": (
        '<|channel>thought\nR<channel|>C<|tool_call>call:f{a:<|"|>x<|"|>,b:1}<tool_call|><|tool_call>call:g{}'
        "<tool_call|>"
    ),
    "ibm-granite-granite-4.0": (
        'C\n<tool_call>\n{"name": "f", "arguments": {"a": "x", "b": 1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    ),
    "inclusionai-ling-3.0-flash": (
        "<think>R</think>C\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value><arg_key>b</arg_key>\n"
        "<arg_value>1</arg_value>\n</tool_call>\n<tool_call>g\n\n</tool_call>"
    ),
    "llama-cpp-deepseek-r1": (
        "<think>\nR\n</think>\n\nC<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function"
        '<｜tool▁sep｜>f\n```json\n{"a": "x", "b": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
        "<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "meetkai-functionary-medium-v3.1": 'C<function=f>{"a": "x", "b": 1}</function><function=g>{}</function>',
    "meetkai-functionary-medium-v3.2": 'C>>>f\n{"a": "x", "b": 1}>>>g\n{}',
    "meta-llama-Llama-3.2-3B-Instruct": 'C{"name": "f", "parameters": {"a": "x", "b": 1}}',
    "meta-llama-Llama-3.3-70B-Instruct": 'C{"name": "f", "parameters": {"a": "x", "b": 1}}',
    "mistralai-Ministral-3-14B-Reasoning-2512": (
        '[THINK]R[/THINK]C[TOOL_CALLS]f[ARGS]{"a": "x", "b": 1}[TOOL_CALLS]g[ARGS]{}'
    ),
    "mistralai-Mistral-Nemo-Instruct-2407": (
        "C[TOOL_CALLS]["
        '{"name": "f", "arguments": {"a": "x", "b": 1}, "id": "call00000"}, '
        '{"name": "g", "arguments": {}, "id": "call00001"}]'
    ),
    "muse-glimmer": (
        "to=self<|message|>R<|eom|><|start|>assistant to=user<|message|>Cto=f<|message|><atem:function_calls>\n"
        '<atem:invoke name="f">\n<atem:parameter name="a">x</atem:parameter>\n<atem:parameter name="b">1'
        "</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eom|><|start|>assistant to=g<|message|>"
        '<atem:function_calls>\n<atem:invoke name="g">\n\n</atem:invoke>\n</atem:function_calls>'
    ),
    "poolside-Laguna-S-2.1": (
        "<think>R</think>C<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value><arg_key>b</arg_key>"
        "<arg_value>1</arg_value></tool_call><tool_call>g</tool_call>"
    ),
    "poolside-Laguna-XS-2.1": (
        "<think>\nR\n</think>\nC\n<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n<arg_key>b"
        "</arg_key>\n<arg_value>1</arg_value>\n</tool_call>\n<tool_call>g\n</tool_call>"
    ),
    "tencent-Hy3": (
        "<think:opensource>R</think:opensource>C<tool_calls:opensource>\n<tool_call:opensource>f"
        "<tool_sep:opensource>\n<arg_key:opensource>a</arg_key:opensource>\n<arg_value:opensource>x"
        "</arg_value:opensource>\n<arg_key:opensource>b</arg_key:opensource>\n<arg_value:opensource>1"
        "</arg_value:opensource>\n</tool_call:opensource>\n<tool_call:opensource>g<tool_sep:opensource>\n"
        "</tool_call:opensource>\n</tool_calls:opensource>"
    ),
    "unsloth-Apriel-1.5": (
        "Here are my reasoning steps:\nR\n[BEGIN FINAL RESPONSE]\nC\n"
        '<tool_calls>[{"name": "f", "arguments": {"a": "x", "b": 1}}, {"name": "g", "arguments": {}}]'
        "</tool_calls>"
    ),
    "upstage-Solar-Open-100B": (
        "<|think|>R<|end|><|begin|>assistant<|content|>C<|end|><|tool_calls|><|tool_call:begin|>call00000"
        '<|tool_call:name|>f<|tool_call:args|>{"a": "x", "b": 1}<|tool_call:end|><|tool_call:begin|>call00001'
        "<|tool_call:name|>g<|tool_call:args|>{}<|tool_call:end|>"
    ),
}
