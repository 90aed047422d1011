"""Tests of MODELS: its forms, the settings of an entry, and the errors for wrong entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker_gguf.errors import SettingsError
from worker_gguf.fleet.roster import Entry, read_roster
from worker_gguf.settings import Settings

YAML = """
- alias: chat
  model: org/chat-GGUF:Q4_K_M
  n_ctx: 16384
  temperature: 0.7
- alias: code
  model: org/code-GGUF:Q5_K_M
  TYPE_K: Q8_0
  seed: auto
"""


def roster(models: str, **environ: str) -> tuple[Entry, ...]:
    return read_roster(Settings.load({"MODELS": models, **environ}))


def refusal(models: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        roster(models, **environ)
    return caught.value.message


def test_a_line_of_aliases_and_references() -> None:
    entries = roster("chat=org/chat:Q4_K_M, code = org/code/f.gguf , org/third:Q8_0")
    assert [entry.name for entry in entries] == ["chat", "code", "org/third:Q8_0"]
    assert [entry.settings.model_reference for entry in entries] == [
        "org/chat:Q4_K_M",
        "org/code/f.gguf",
        "org/third:Q8_0",
    ]
    assert entries[0].settings.model_alias == "chat"


@pytest.mark.parametrize("head", ["", "models:"])
def test_a_yaml_file_and_the_same_as_text(tmp_path: Path, head: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(head + YAML)
    for entries in (roster(str(path)), roster(head + YAML)):
        chat, code = (entry.settings for entry in entries)
        assert (chat.model, chat.n_ctx, chat.temperature) == ("org/chat-GGUF:Q4_K_M", 16384, 0.7)
        assert (code.type_k, code.seed, code.n_ctx) == ("q8_0", None, None)


@pytest.mark.parametrize("models", ["one", "embedded, one", "- one", "- model: one"])
def test_a_word_that_is_no_reference_is_refused_with_the_forms_of_an_entry(models: str) -> None:
    said = refusal(models)
    assert said.startswith(f"MODELS entry {1 + models.count(',')}: 'one' is not a model reference.")
    assert "org/repo:QUANT" in said
    assert "`alias=reference`" in said


def test_json_and_yamls_short_form() -> None:
    assert roster('[{"model": "embedded", "n_ctx": 64}, "b=org/x:Q4_0"]')[1].name == "b"
    assert roster("[{model: embedded, alias: a}]")[0].name == "a"


def test_the_environment_holds_for_every_entry_that_does_not_say_otherwise() -> None:
    entries = roster('[{"model": "embedded", "alias": "a", "n_ctx": 64}, "b=embedded"]', N_CTX="512", TOP_K="5")
    assert [(entry.settings.n_ctx, entry.settings.top_k) for entry in entries] == [(64, 5), (512, 5)]
    assert all(entry.settings.models is None for entry in entries)


def test_each_entry_has_its_own_adapters() -> None:
    entries = roster(
        '[{"model": "embedded", "alias": "a", "lora": "sql=/l/a.gguf, /l/style.gguf:0.5"}, "b=embedded",'
        ' {"model": "embedded", "alias": "c", "LORA": ["org/sql:F16"]}]'
    )
    named = [[(adapter.name, adapter.scale) for adapter in entry.settings.adapters] for entry in entries]
    assert named == [[("sql", 1.0), ("style", 0.5)], [], [("sql", 1.0)]]


def test_each_entry_has_its_own_projector_and_mmproj_none_holds_for_all() -> None:
    models = "[{model: embedded, alias: a, mmproj: org/repo}, b=embedded, {model: org/c, MMPROJ: none}]"
    assert [entry.settings.mmproj for entry in roster(models)] == ["org/repo", "auto", "none"]
    assert [entry.settings.mmproj for entry in roster(models, MMPROJ="auto")] == ["org/repo", "auto", "none"]
    assert [entry.settings.mmproj for entry in roster(models, MMPROJ="none")] == ["none"] * 3


def test_a_path_or_an_address_is_named_by_its_file() -> None:
    assert [entry.name for entry in roster("/models/x.Q4.gguf, https://h/y.gguf?sig=1")] == ["x.Q4", "y"]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (",", "MODELS lists no model"),
        ("/no/such.yaml", "MODELS='/no/such.yaml' cannot be read: No such file"),
        ("{a: 1}", "docs/models.md"),
        ("- a: [", "MODELS is not valid YAML in line 1"),
        ("- 5", "entry 1 is neither a reference nor a mapping"),
        ("- alias: a", "MODELS entry 1 (a) names no model"),
        ("[{model: embedded, alias: 5}]", "entry 1: `alias` must be a text"),
        ("[{model: embedded, n_ctxx: 5}]", "MODELS entry 1: N_CTXX is not a setting of a model"),
        ("[{model: embedded, port: 80}]", "MODELS entry 1: PORT is for the whole worker"),
        ("[{model: embedded, draft_model: embedded}]", "DRAFT_MODEL is for a worker with a single model"),
        ("[{model: embedded, api_keys: x}]", "API_KEYS is for the whole worker"),
        ("[a=embedded, {model: embedded, alias: b, n_ctx: 8k}]", "MODELS entry 2 (b): N_CTX='8k' is not valid"),
        ("[{model: embedded, n_batch: 8, n_ubatch: 16}]", "MODELS entry 1: N_UBATCH=16 exceeds N_BATCH=8"),
        ("[a=embedded, {model: embedded, alias: b, lora: /l/1.gguf}]", "MODELS entry 2 (b): LORA entry 1 (/l/1.gguf)"),
        ("[a=embedded, {model: embedded, alias: b, mmproj: one}]", "MODELS entry 2 (b): MMPROJ: 'one' is not a model"),
        ("[{model: embedded, mmproj: 5}]", "MODELS entry 1: MMPROJ=5 is not valid"),
        ("a=embedded, A=org/x:Q4_0", "MODELS entry 2 (A) has the same name as another entry"),
    ],
)
def test_the_error_names_the_wrong_entry(models: str, said: str) -> None:
    assert said in refusal(models)


def test_model_and_models_are_not_set_together() -> None:
    assert "MODEL and MODELS both set the served model" in refusal("a=embedded", MODEL="embedded")
    assert "MODEL_ALIAS and MODELS" in refusal("a=embedded", MODEL_ALIAS="x")
