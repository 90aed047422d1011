"""The table of request parameters by name: which are honoured, refused or ignored.

honoured  a field of ChatBody or CompletionBody (bodies.py), or an alias of one (ALIASES)
refused   it would change the answer but is not supported: status 400, unless its value is neutral
ignored   it has no effect here, like a name that is in no table; the answer lists both
"""

from __future__ import annotations

from collections.abc import Mapping

from worker_gguf.protocol.bodies import ChatBody, CompletionBody

__all__ = [
    "ALIASES",
    "CHAT_REFUSED",
    "COMPLETION_REFUSED",
    "HONOURED",
    "IGNORED",
    "INSTEAD",
    "NO_CONSTRAINTS",
    "OF_THE_TEXT",
    "REFUSED",
]

HONOURED = frozenset(ChatBody.model_fields) | frozenset(CompletionBody.model_fields)

ALIASES: Mapping[str, str] = {
    "ban_eos_token": "ignore_eos",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "min_length": "min_tokens",
    "mirostat_mode": "mirostat",
    "n_cmpl": "n",
    "n_predict": "max_tokens",
    "nsigma": "top_n_sigma",
    "num_predict": "max_tokens",
    "reasoning_budget": "thinking_budget_tokens",
    "reasoning_budget_tokens": "thinking_budget_tokens",
    "rep_pen": "repeat_penalty",
    "rep_pen_range": "repeat_last_n",
    "repetition_penalty": "repeat_penalty",
    "repetition_penalty_range": "repeat_last_n",
    "sampler_seed": "seed",
    "stop_sequences": "stop",
    "stopping_strings": "stop",
    "thinking_budget": "thinking_budget_tokens",
    "thinking_token_budget": "thinking_budget_tokens",
    "typ_p": "typical_p",
    "typical": "typical_p",
}

_OFF = (False, 0)
_EMPTY: tuple[object, ...] = ("", [], {})
_NO_LIMIT = (0, -1)

# The neutral values of each parameter, besides null. Numbers are compared as numbers, but true is not equal to 1.
REFUSED: Mapping[str, tuple[object, ...]] = {
    # The form of the answer.
    "preserved_tokens": ([],),
    "parse_tool_calls": (True,),
    "structural_tag": _EMPTY,
    "grammar_lazy": _OFF,
    # Other kinds of input and output.
    "modalities": (["text"], []),
    "audio": (),
    "web_search_options": (),
    "moderation": (),
    "input_prefix": _EMPTY,
    "input_suffix": _EMPTY,
    "input_extra": _EMPTY,
    "n_indent": (0,),
    "prompt_logprobs": _OFF,
    "return_tokens_as_token_ids": _OFF,
    "post_sampling_probs": _OFF,
    "spaces_between_special_tokens": (True,),
    "image_data": ([],),
    "multimodal_data": _EMPTY,
    # The model and its prompt.
    "lora_adapters": ([],),
    "lora_request": _EMPTY,
    "chat_template": ("",),
    "chat_format": (),
    "chat_parser": ("",),
    "documents": ([],),
    "generation_prompt": ("",),
    "prompt_embeds": _EMPTY,
    "add_special_tokens": (),
    "add_bos_token": (True,),
    "truncate_prompt_tokens": (0,),
    "system": ("",),
    "template": ("",),
    "reasoning_control": _OFF,
    "verbosity": ("medium",),
    # Limits that this worker does not have: it never shifts the context and never cuts off an answer after some time.
    "n_keep": _NO_LIMIT,
    "n_discard": (0,),
    "t_max_predict_ms": _NO_LIMIT,
    "t_max_prompt_ms": _NO_LIMIT,
    "stop_regex": ("", []),
    # Search and sampling methods that llama.cpp does not have, or no longer has.
    "use_beam_search": _OFF,
    "num_beams": (0, 1),
    "length_penalty": (0, 1),
    "early_stopping": (False,),
    "penalty_alpha": (0,),
    "do_sample": (True,),
    "encoder_repetition_penalty": (1,),
    "guidance_scale": (1,),
    "cfg_scale": (1,),
    "negative_prompt": ("",),
    "tfs": (1,),
    "tfs_z": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "skew": (0,),
    "repetition_decay": (0,),
    "rep_pen_slope": (0, 1),
    "max_tokens_second": (0,),
    "minimum_message_content_tokens": (0,),
    "penalize_nl": _OFF,
    "temperature_last": (True,),
    "custom_token_bans": _EMPTY,
    "banned_tokens": _EMPTY,
    "bad_words": _EMPTY,
    "allowed_token_ids": ([],),
    "logits_processors": ([],),
    "best_of": (0,),  # and n, see screening.py
}

# For one route only.
CHAT_REFUSED: Mapping[str, tuple[object, ...]] = {**REFUSED, "echo": (False,), "suffix": ("",)}
COMPLETION_REFUSED: Mapping[str, tuple[object, ...]] = {
    **REFUSED,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "enable_thinking": (),
    "thinking": (),
    "reasoning": ({},),
    "reasoning_format": ("none", "auto"),
    "thinking_budget_tokens": (-1,),
    "reasoning_budget_message": ("",),
}

# Parameters that say what the text of an answer must match, and the values of them that say nothing.
OF_THE_TEXT = frozenset(
    {"response_format", "json_schema", "grammar", "regex", "lark", "choice", "format", "grammar_string"}
    | {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"}
)
NO_CONSTRAINTS: tuple[object, ...] = ({"type": "text"}, "", [], {})

# Advice for parameters whose purpose can be achieved in another way.
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(sorted(COMPLETION_REFUSED.keys() - REFUSED.keys()), "Use /v1/chat/completions."),
    "add_special_tokens": "Send token ids as prompt.",
    "allowed_token_ids": "Use logit_bias.",
    "bad_words": "Use banned_strings.",
    "banned_tokens": "Use banned_strings, or logit_bias with false.",
    "custom_token_bans": "Use logit_bias with false.",
    "do_sample": "Use temperature 0.",
    "cfg_scale": "Say in the system message what to avoid.",
    "grammar_lazy": "Use tools for calls.",
    "guidance_scale": "Say in the system message what to avoid.",
    "lora_adapters": "Use lora.",
    "lora_request": "Use lora.",
    "negative_prompt": "Say in the system message what to avoid.",
    "return_tokens_as_token_ids": "Use return_token_ids.",
    "stop_regex": "Use stop, or regex for the whole answer.",
    "structural_tag": "Use tools for calls, or lark.",
    "t_max_predict_ms": "Use timeout.",
    "t_max_prompt_ms": "Use timeout.",
    "truncate_prompt_tokens": "Shorten the prompt; nothing is truncated here.",
}

# The server or client that uses the parameter, or "server: topic". None of these can change an answer here.
IGNORED: Mapping[str, str] = {
    "allow_fallbacks": "OpenRouter",
    "api_server": "SillyTavern",
    "api_type": "SillyTavern",
    "backend_sampling": "llama-server: where sampling runs",
    "background_tasks": "Open WebUI",
    "cache_salt": "vLLM",
    "can_abort": "SillyTavern",
    "char_name": "SillyTavern",
    "chat_id": "Open WebUI",
    "custom_llm_provider": "LiteLLM",
    "dynamic_temperature": "SillyTavern: with dynatemp_range",
    "dynatemp_high": "SillyTavern: with dynatemp_range",
    "dynatemp_low": "SillyTavern: with dynatemp_range",
    "dynatemp_max": "SillyTavern: with dynatemp_range",
    "dynatemp_min": "SillyTavern: with dynatemp_range",
    "dynatemp_mode": "SillyTavern: with dynatemp_range",
    "enforce_include_reasoning": "SillyTavern",
    "features": "Open WebUI",
    "files": "Open WebUI",
    "grammar_triggers": "llama-server: with grammar",
    "grammar_retain_state": "KoboldCpp: with grammar",
    "grammar_type": "llama-server: with grammar",
    "group_names": "SillyTavern",
    "guided_decoding_backend": "vLLM: with guided_*",
    "guided_whitespace_pattern": "vLLM: with guided_*",
    "id_slot": "llama-server: the slot is chosen here",
    "keep_alive": "Ollama",
    "kv_transfer_params": "vLLM",
    "metadata": "OpenAI",
    "mm_processor_kwargs": "vLLM: with images",
    "model_item": "Open WebUI",
    "n_cache_reuse": "llama-server: how the cache is used",
    "num_ctx": "Ollama: the context is set at the start",
    "params": "Open WebUI",
    "prediction": "OpenAI: a hint for speed",
    "prompt_cache_key": "OpenAI",
    "prompt_cache_options": "OpenAI",
    "prompt_cache_retention": "OpenAI",
    "provider": "OpenRouter",
    "quantizations": "OpenRouter",
    "reasoning_budget_end_tag": "llama-server: with reasoning_budget_tokens",
    "reasoning_budget_end_tags": "llama-server: with reasoning_budget_tokens",
    "reasoning_budget_start_tag": "llama-server: with reasoning_budget_tokens",
    "request_id": "vLLM",
    "response_fields": "llama-server: its own routes only",
    "return_progress": "llama-server: reports with the answer",
    "return_tokens": "llama-server: its own routes only",
    "reverse_proxy": "SillyTavern",
    "safety_identifier": "OpenAI",
    "sampler_order": "KoboldCpp: its numbers; samplers is honoured",
    "sampler_priority": "text-generation-webui: its names; samplers is honoured",
    "service_tier": "OpenAI",
    "session_id": "Open WebUI",
    "slot_id": "llama-server: older",
    "speculative.n_max": "llama-server: speed only",
    "speculative.n_min": "llama-server: speed only",
    "speculative.ngram_min_hits": "llama-server: speed only",
    "speculative.ngram_size_m": "llama-server: speed only",
    "speculative.ngram_size_n": "llama-server: speed only",
    "speculative.p_min": "llama-server: speed only",
    "speculative.type": "llama-server: speed only",
    "speculative_ngram": "TabbyAPI: speed only",
    "sse_ping_interval": "llama-server: comments in the stream",
    "store": "OpenAI",
    "timings_per_token": "llama-server: reports with the answer",
    "tool_ids": "Open WebUI",
    "tool_servers": "Open WebUI",
    "trim_stop": "KoboldCpp: stop texts are never part of the answer",
    "truncation_length": "SillyTavern: nothing is truncated here",
    "type": "SillyTavern",
    "user": "OpenAI",
    "user_name": "SillyTavern",
    "variables": "Open WebUI",
    "verbose": "llama-server: reports with the answer",
    "vllm_xargs": "vLLM",
}
