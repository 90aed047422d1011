"""Tests of LORA: the forms of its entries, and a sentence for each that is wrong."""

from __future__ import annotations

import pytest

from worker_gguf.errors import SettingsError
from worker_gguf.settings import Settings
from worker_gguf.settings.adapters import AdapterEntry


def read(text: str) -> list[tuple[str, str, float]]:
    return [(entry.name, str(entry.ref), entry.scale) for entry in Settings.load({"LORA": text}).adapters]


def refusal(text: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"LORA": text, **environ})
    return refused.value.message


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("/models/sql.gguf", ("sql", "/models/sql.gguf", 1.0)),
        ("sql=/models/a.gguf", ("sql", "/models/a.gguf", 1.0)),
        ("sql = /models/a.gguf : 0.5", ("sql", "/models/a.gguf", 0.5)),
        ("/models/a=b.gguf", ("a=b", "", 0.0)),
        ("sql=/models/a=b.gguf:-1", ("sql", "/models/a=b.gguf", -1.0)),
        ("org/sql-lora", ("sql-lora", "org/sql-lora", 1.0)),
        ("org/sql-lora:F16", ("sql-lora", "org/sql-lora:F16", 1.0)),
        ("org/sql-lora:F16:.25", ("sql-lora", "org/sql-lora:F16", 0.25)),
        ("org/loras/sql.gguf:2", ("sql", "org/loras/sql.gguf", 2.0)),
        ("org/loras/*sql*.gguf", ("loras", "org/loras/*sql*.gguf", 1.0)),
        ("org/loras/sql.gguf@v1.0", ("sql", "org/loras/sql.gguf@v1.0", 1.0)),
        ("https://host:8080/f/sql.gguf?key=a:1", ("sql", "https://host:8080/f/sql.gguf?key=a", 1.0)),
        ("s=https://host/f/x.gguf?key=a", ("s", "https://host/f/x.gguf?key=a", 1.0)),
    ],
)
def test_an_entry_has_a_name_a_reference_and_a_scale(text: str, entry: tuple[str, str, float]) -> None:
    if entry[0] == "a=b":  # a path may have this character, and a name not
        assert "'a=b' cannot be the name of an adapter: write `name=reference`" in refusal(text)
    else:
        assert read(text) == [entry]


def test_entries_are_separated_by_commas_or_lines() -> None:
    both = [("a", "./a.gguf", 1.0), ("b", "./b.gguf", 0.5)]
    assert read("a=./a.gguf, b=./b.gguf:0.5,") == both
    assert read("\n  a=./a.gguf\n  b=./b.gguf:0.5\n") == both
    assert Settings.load({"LORA": " "}).adapters == ()
    assert Settings.load({}).adapters == ()


def test_a_list_is_read_like_the_text() -> None:
    settings = Settings.load({}).changed((), {"lora": ["a=./a.gguf", "./b.gguf:0.5"]})
    assert [(entry.name, entry.scale) for entry in settings.adapters] == [("a", 1.0), ("b", 0.5)]
    assert all(isinstance(entry, AdapterEntry) for entry in settings.adapters)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=./a.gguf, ./b.gguf:0", "LORA entry 2 (./b.gguf:0): the scale 0 is not a number other than 0."),
        ("a=./a.gguf:1e999", "LORA entry 1 (a=./a.gguf:1e999): the scale inf is not a number other than 0."),
        ("a=", "LORA entry 1 (a=): The model reference is empty."),
        ("=./a.gguf", "LORA entry 1 (=./a.gguf): '' cannot be the name of an adapter"),
        ("7=./a.gguf", "'7' cannot be the name of an adapter"),
        ("my style=./a.gguf", "'my style' cannot be the name of an adapter"),
        ("./a b.gguf", "'a b' cannot be the name of an adapter"),
        ("a=./a.gguf,A=./b.gguf", "LORA entry 2 (A=./b.gguf): another entry has the name 'A', too"),
        ("a=embedded", "LORA entry 1 (a=embedded): the embedded model is not an adapter."),
        ("a=nothing", "LORA entry 1 (a=nothing): 'nothing' is not a model reference."),
        ("a=https://host/page?secret=1", "LORA entry 1 (a=https://host/page): 'https://host/page' is not the URL"),
    ],
)
def test_a_wrong_entry_is_named(text: str, wanted: str) -> None:
    message = refusal(text)
    assert wanted in message
    assert "secret" not in message


def test_a_name_that_clients_of_ollama_add_is_no_name_of_an_adapter() -> None:
    assert "which is no number and not `latest`" in refusal("Latest=./a.gguf")


def test_adapters_belong_to_one_model() -> None:
    message = refusal("a=./a.gguf", MODELS="one=org/one, two=org/two")
    assert message == "LORA has adapters of a single model, and MODELS lists several: give each entry its own `lora`."
