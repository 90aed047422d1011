"""Tests that every known parameter is listed once and treated as its entry says."""

from __future__ import annotations

from typing import Any

import pytest

from worker_gguf.protocol.parameters import (
    ALIASES,
    CHAT_REFUSED,
    COMPLETION_REFUSED,
    HONOURED,
    IGNORED,
    INSTEAD,
    REFUSED,
)

LLAMA_SERVER = """
temperature dynatemp_range dynatemp_exponent top_k top_p min_p top_n_sigma typical_p xtc_probability xtc_threshold
repeat_penalty repeat_last_n presence_penalty frequency_penalty dry_multiplier dry_base dry_allowed_length
dry_penalty_last_n dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target adaptive_decay seed samplers
min_keep logit_bias ignore_eos grammar grammar_lazy grammar_triggers grammar_type preserved_tokens json_schema
backend_sampling n_predict max_tokens max_completion_tokens n n_cmpl n_keep n_discard n_indent stop echo stream
stream_options sse_ping_interval n_probs logprobs top_logprobs post_sampling_probs cache_prompt n_cache_reuse id_slot
t_max_predict_ms t_max_prompt_ms return_tokens return_progress timings_per_token response_fields verbose lora messages
model tools tool_choice parallel_tool_calls parse_tool_calls response_format chat_template_kwargs add_generation_prompt
continue_final_message generation_prompt reasoning_format reasoning_effort reasoning_control reasoning_budget_tokens
thinking_budget_tokens reasoning_budget_message reasoning_budget_start_tag reasoning_budget_end_tag
reasoning_budget_end_tags chat_format chat_parser speculative.n_max speculative.n_min speculative.p_min speculative.type
speculative.ngram_size_n speculative.ngram_size_m speculative.ngram_min_hits prompt
""".split()

VLLM = """
best_of use_beam_search length_penalty stop_token_ids include_stop_str_in_output min_tokens skip_special_tokens
spaces_between_special_tokens truncate_prompt_tokens allowed_token_ids prompt_logprobs add_special_tokens documents
chat_template mm_processor_kwargs guided_json guided_regex guided_choice guided_grammar structural_tag
guided_decoding_backend guided_whitespace_pattern structured_outputs priority request_id logits_processors
return_tokens_as_token_ids return_token_ids cache_salt kv_transfer_params vllm_xargs bad_words repetition_penalty
prompt_embeds include_reasoning
""".split()

SILLYTAVERN = """
max_new_tokens typical mirostat_mode nsigma stopping_strings custom_token_bans banned_strings tfs top_a epsilon_cutoff
eta_cutoff smoothing_factor smoothing_curve skew guidance_scale negative_prompt num_beams no_repeat_ngram_size
penalty_alpha early_stopping do_sample add_bos_token ban_eos_token truncation_length dynamic_temperature dynatemp_low
dynatemp_high temperature_last sampler_priority sampler_order encoder_repetition_penalty can_abort api_type api_server
""".split()


KNOWN = {*HONOURED, *ALIASES, *REFUSED, *IGNORED}


@pytest.mark.parametrize("name", sorted({*LLAMA_SERVER, *VLLM, *SILLYTAVERN}))
def test_parameter_of_a_known_server_or_client_is_known(name: str) -> None:
    assert name in KNOWN


@pytest.mark.parametrize("schema", ["CreateChatCompletionRequest", "CreateCompletionRequest"])
def test_every_openai_parameter_is_known(openapi: dict[str, Any], schema: str) -> None:
    schemas = openapi["components"]["schemas"]

    def names(part: dict[str, Any]) -> set[str]:
        part = schemas[part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        return set(part.get("properties", ())).union(*(names(member) for member in part.get("allOf", ())))

    found = names(schemas[schema])
    assert len(found) > 15
    assert found <= KNOWN


def test_no_parameter_is_judged_twice() -> None:
    tables = [set(HONOURED), set(ALIASES), set(REFUSED), set(IGNORED)]
    assert len(set.union(*tables)) == sum(map(len, tables))


def test_aliases_lead_to_honoured_parameters() -> None:
    assert set(ALIASES.values()) <= HONOURED


def test_advice_is_only_for_refused_parameters() -> None:
    assert set(INSTEAD) <= {*CHAT_REFUSED, *COMPLETION_REFUSED}


def test_some_are_honoured_on_one_route_and_refused_on_the_other() -> None:
    assert set(CHAT_REFUSED) - set(REFUSED) == {"echo", "suffix"} <= HONOURED
    assert {"tools", "thinking"} <= set(COMPLETION_REFUSED) - set(REFUSED) <= HONOURED
