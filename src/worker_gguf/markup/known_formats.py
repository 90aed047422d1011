"""How the models of published families write, as values.

Most of them can also be read off the families' templates. They serve where a template cannot be rendered, and the tests
hold the recorded answers of these families against them.
"""

from __future__ import annotations

from msgspec.structs import replace

from worker_gguf.markup.call_format import CallFormat, Channels, JsonCall, TaggedValues

# Qwen 2.5 and 3, Hermes, SmolLM3. Also what is asked of a model whose template has no format of its own.
HERMES = CallFormat(
    syntax="json_object",
    call_start="<tool_call>\n",
    call_end="\n</tool_call>",
    separator="\n",
    before_calls="\n",
)
GENERIC = HERMES
QWEN3 = replace(HERMES, reasoning_start="<think>\n", reasoning_ends=("\n</think>\n\n",), calls_in_reasoning=True)
QWEN3_CODER = CallFormat(
    syntax="tagged",
    call_start="<tool_call>\n<function=",
    arguments_start=">\n",
    call_end="</function>\n</tool_call>",
    separator="\n",
    before_calls="\n",
    other_starts=("<function=",),
    values=TaggedValues("<parameter=", ">\n", value_end="\n</parameter>\n"),
)
QWEN3_5 = replace(QWEN3_CODER, reasoning_start="<think>\n", reasoning_ends=("\n</think>\n\n",), calls_in_reasoning=True)
SEED_OSS = CallFormat(
    syntax="tagged",
    call_start="<seed:tool_call>\n<function=",
    arguments_start=">\n",
    call_end="</function>\n</seed:tool_call>",
    separator="\n",
    values=TaggedValues("<parameter=", ">", value_end="</parameter>\n"),
    reasoning_start="<seed:think>",
    reasoning_ends=("</seed:think>",),
)
MINIMAX_M2 = CallFormat(
    syntax="tagged",
    section_start="<minimax:tool_call>\n",
    section_end="</minimax:tool_call>",
    call_start='<invoke name="',
    arguments_start='">\n',
    call_end="</invoke>\n",
    before_calls="\n",
    values=TaggedValues('<parameter name="', '">', value_end="</parameter>\n"),
    reasoning_start="<think>\n",
    reasoning_ends=("\n</think>\n\n",),
)

MISTRAL_V3 = CallFormat(
    syntax="json_object",
    section_start="[TOOL_CALLS]",
    is_array=True,
    separator=", ",
    json_call=JsonCall(id_key="id"),
)
MISTRAL_V11 = CallFormat(
    syntax="json",
    call_start="[TOOL_CALLS]",
    name_end="[CALL_ID]",
    id_pattern="[a-zA-Z0-9]{9}",
    arguments_start="[ARGS]",
)
MISTRAL_V13 = replace(MISTRAL_V11, name_end="", id_pattern="")
MAGISTRAL_TEXT = replace(MISTRAL_V11, reasoning_start="<think>", reasoning_ends=("</think>",))
MAGISTRAL = replace(MISTRAL_V13, reasoning_start="[THINK]", reasoning_ends=("[/THINK]",))

_DEEPSEEK = CallFormat(
    syntax="json",
    section_start="<｜tool▁calls▁begin｜>",
    section_end="<｜tool▁calls▁end｜>",
    reasoning_start="<think>",
    reasoning_ends=("</think>",),
)
DEEPSEEK_R1 = replace(
    _DEEPSEEK,
    call_start="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    arguments_start="\n```json\n",
    call_end="\n```<｜tool▁call▁end｜>",
    separator="\n",
    reasoning_start="<think>\n",
    reasoning_ends=("\n</think>\n\n",),
)
DEEPSEEK_V3_1 = replace(
    _DEEPSEEK,
    call_start="<｜tool▁call▁begin｜>",
    arguments_start="<｜tool▁sep｜>",
    call_end="<｜tool▁call▁end｜>",
)


def _dsml(section: str, space: str = "") -> CallFormat:
    tag = f"｜DSML｜{space}"
    return CallFormat(
        syntax="tagged",
        section_start=f"<{tag}{section}>\n",
        section_end=f"</{tag}{section}>",
        call_start=f'<{tag}invoke name="',
        arguments_start='">\n',
        call_end=f"</{tag}invoke>\n",
        before_calls="\n\n",
        values=TaggedValues(
            f'<{tag}parameter name="',
            '">',
            value_end=f"</{tag}parameter>\n",
            type_start='" string="',
            text_types=("true",),
            types=("true", "false"),
        ),
        reasoning_start="<think>",
        reasoning_ends=("</think>",),
        calls_in_reasoning=True,
    )


DEEPSEEK_V3_2 = _dsml("function_calls")
DEEPSEEK_V4 = _dsml("tool_calls")
DEEPSEEK_V4_1 = _dsml("calls", " ")

KIMI_K2 = CallFormat(
    syntax="json",
    section_start="<|tool_calls_section_begin|>",
    section_end="<|tool_calls_section_end|>",
    call_start="<|tool_call_begin|>functions.",
    name_end=":",
    id_pattern="[0-9]+",
    arguments_start="<|tool_call_argument_begin|>",
    call_end="<|tool_call_end|>",
)
KIMI_K2_THINKING = replace(KIMI_K2, reasoning_start="<think>", reasoning_ends=("</think>",), calls_in_reasoning=True)
KIMI_K3 = CallFormat(
    syntax="tagged",
    section_start="<|open|>tools<|sep|>",
    section_end="<|close|>tools<|sep|>",
    call_start='<|open|>call tool="',
    name_end='" index="',
    id_pattern="[0-9]+",
    arguments_start='"<|sep|>',
    call_end="<|close|>call<|sep|>",
    values=TaggedValues(
        '<|open|>argument key="',
        '"<|sep|>',
        value_end="<|close|>argument<|sep|>",
        type_start='" type="',
        text_types=("string",),
        types=("string", "number", "boolean", "null", "array", "object"),
    ),
    reasoning_start="<|open|>think<|sep|>",
    reasoning_ends=("<|close|>think<|sep|>",),
    content_start="<|open|>response<|sep|>",
    content_end="<|close|>response<|sep|>",
    ignored=("<|close|>message<|sep|>",),
)

GLM_4_7 = CallFormat(
    syntax="tagged",
    call_start="<tool_call>",
    call_end="</tool_call>",
    before_calls="\n",
    values=TaggedValues("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    reasoning_start="<think>",
    reasoning_ends=("</think>",),
)
GLM_4_5 = replace(
    GLM_4_7,
    arguments_start="\n",
    separator="\n",
    values=TaggedValues("<arg_key>", "</arg_key>\n", "<arg_value>", "</arg_value>\n"),
    reasoning_start="\n<think>",
    reasoning_ends=("</think>\n",),
)

LLAMA_3 = CallFormat(
    syntax="json_object",
    other_starts=("<|python_tag|>",),
    separator="; ",
    only_at_start=True,
    is_parallel=False,
    json_call=JsonCall(arguments_key="parameters"),
)
LLAMA_4 = CallFormat(
    syntax="pythonic",
    section_end="<|python_end|>",
    is_array=True,
    separator=", ",
    only_at_start=True,
    other_starts=("<|python_start|>",),
)
LFM2 = CallFormat(
    syntax="pythonic",
    section_start="<|tool_call_start|>",
    section_end="<|tool_call_end|>",
    is_array=True,
    separator=", ",
)
LFM2_5 = replace(LFM2, reasoning_start="<think>", reasoning_ends=("</think>",))
GEMMA_4 = CallFormat(
    syntax="gemma",
    call_start="<|tool_call>call:",
    arguments_start="{",
    arguments_end="}",
    call_end="<tool_call|>",
    string_quote='<|"|>',
    reasoning_start="<|channel>thought\n",
    reasoning_ends=("\n<channel|>",),
    ignored=("<|tool_response>",),
)
GPT_OSS = CallFormat(
    syntax="json",
    is_parallel=False,
    channels=Channels(
        start="<|start|>",
        role="assistant",
        channel="<|channel|>",
        message="<|message|>",
        ends=("<|end|>", "<|call|>", "<|return|>"),
        reasoning=("analysis",),
        content=("final", "commentary"),
        recipient=" to=functions.",
        call_channel="commentary",
        content_type=" <|constrain|>json",
    ),
)

GRANITE_3_3 = CallFormat(
    syntax="json_object",
    section_start="<|tool_call|>",
    is_array=True,
    separator=", ",
    reasoning_start="<think>",
    reasoning_ends=("</think>",),
    content_start="<response>",
    content_end="</response>",
)
PHI_4_MINI = CallFormat(
    syntax="json_object",
    section_start="<|tool_call|>",
    section_end="<|/tool_call|>",
    is_array=True,
    separator=", ",
    other_starts=("functools",),
)
NEMOTRON_NANO_2 = CallFormat(
    syntax="json_object",
    section_start="<TOOLCALL>",
    section_end="</TOOLCALL>",
    is_array=True,
    separator=", ",
    before_calls="\n",
    reasoning_start="<think>\n",
    reasoning_ends=("\n</think>\n\n",),
)
COMMAND_R7B = CallFormat(
    syntax="json_object",
    section_start="<|START_ACTION|>",
    section_end="<|END_ACTION|>",
    is_array=True,
    separator=",\n",
    json_call=JsonCall("tool_name", "parameters", id_key="tool_call_id", id_pattern="[0-9]+", is_id_first=True),
    reasoning_start="<|START_THINKING|>",
    reasoning_ends=("<|END_THINKING|>",),
    content_start="<|START_RESPONSE|>",
    content_end="<|END_RESPONSE|>",
)
COMMAND_R = CallFormat(
    syntax="json_object",
    section_start="Action:\n```json\n",
    section_end="\n```",
    is_array=True,
    separator=",\n",
    json_call=JsonCall("tool_name", "parameters"),
    content_names=("directly_answer",),
)
FUNCTIONARY_3_1 = CallFormat(syntax="json", call_start="<function=", arguments_start=">", call_end="</function>")
FUNCTIONARY_3_2 = CallFormat(syntax="json", call_start=">>>", arguments_start="\n", content_names=("all",))
