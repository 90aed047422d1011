"""The files that RunPod's Hub and test runner read: of the shape that the Hub documents, true to settings and image."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tools.docs import hub as docs_hub
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.openai.requests import parse_chat, parse_completion
from worker_gguf.queue.job_input import read_job_input
from worker_gguf.settings import Settings
from worker_gguf.settings.fields import Platform
from worker_gguf.store.ref import HubRef, ModelRef

ROOT = Path(__file__).parents[2]
POOLS = "AMPERE_16 AMPERE_24 ADA_24 AMPERE_48 ADA_48_PRO AMPERE_80 ADA_80_PRO HOPPER_141".split()
MOST_VARIABLES = 50
"""Of a Pod; the platform has its own beside ours."""


def closed(required: str, /, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
VERSIONS = {"type": "array", "items": {"type": "string", "pattern": r"^\d+\.\d$"}}
VARIABLE = {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"}
FIXED = closed("key value", key=VARIABLE, value={"type": "string"})
# docs.runpod.io/hub/publishing-guide
INPUT = closed(
    "name type",
    name=TEXT,
    type={"enum": ["string", "number", "boolean", "huggingface"]},
    description=TEXT,
    default={"type": ["string", "number", "boolean"]},
    required={"type": "boolean"},
    advanced={"type": "boolean"},
    options={"type": "array", "items": closed("label value", label=TEXT, value=TEXT)},
    min={"type": "number"},
    max={"type": "number"},
    trueValue={"type": "string"},
    falseValue={"type": "string"},
)
PRESET = closed(
    "name defaults",
    name=TEXT,
    defaults={"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
)
HUB = closed(
    "title description type category config",
    title=TEXT,
    description=TEXT,
    type={"const": "serverless"},
    category={"enum": ["audio", "embedding", "language", "video", "image"]},
    iconUrl={"type": "string", "format": "uri"},
    config=closed(
        "runsOn containerDiskInGb",
        runsOn={"enum": ["GPU", "CPU"]},
        endpointType={"const": "LB"},
        containerDiskInGb={"type": "integer", "minimum": 1},
        cpuFlavor=TEXT,
        gpuCount={"type": "integer", "minimum": 1},
        gpuIds=TEXT,
        allowedCudaVersions=VERSIONS,
        presets={"type": "array", "items": PRESET},
        env={"type": "array", "items": {"anyOf": [FIXED, closed("key input", key=VARIABLE, input=INPUT)]}},
    ),
)
TESTS = closed(
    "tests",
    tests={
        "type": "array",
        "minItems": 1,
        "items": closed("name input", name=TEXT, input={"type": "object"}, timeout={"type": "integer"}),
    },
    config=closed(
        "",
        gpuTypeId=TEXT,
        gpuCount={"type": "integer"},
        cpuFlavor=TEXT,
        env={"type": "array", "items": FIXED},
        allowedCudaVersions=VERSIONS,
    ),
)


@pytest.fixture(scope="module")
def hub() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(docs_hub.hub_file())
    return written


def defaults_of(hub: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a deployment for which no field of the form was changed."""
    given = {entry["key"]: entry.get("value", entry.get("input", {}).get("default")) for entry in hub["config"]["env"]}
    return {name: as_variable(value) for name, value in given.items() if value is not None}


def as_variable(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_hub_json_has_the_documented_form(hub: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(HUB).validate(hub)


def test_tests_json_has_the_documented_form() -> None:
    jsonschema.Draft202012Validator(TESTS).validate(json.loads(docs_hub.hub_tests()))


def test_the_schema_refuses_keys_that_the_hub_does_not_have(hub: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(HUB).validate(hub | {"type": "pod"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(HUB).validate(hub | {"config": hub["config"] | {"gpuTypes": "A100"}})


def test_every_setting_is_on_the_form_or_left_out_for_a_reason(hub: dict[str, Any]) -> None:
    shown = {entry["key"] for entry in hub["config"]["env"] if "input" in entry}
    settings = {name.upper() for name in Settings.model_fields} - {name.upper() for name in Platform.model_fields}
    assert shown | set(docs_hub.LEFT_OUT) == settings
    assert not shown & set(docs_hub.LEFT_OUT)
    assert len(hub["config"]["env"]) <= MOST_VARIABLES


def test_the_form_left_alone_is_the_worker_left_alone(hub: dict[str, Any]) -> None:
    assert Settings.load(defaults_of(hub)) == Settings(model=docs_hub.DEFAULT_MODEL)


def test_every_choice_on_the_form_is_a_good_setting(hub: dict[str, Any]) -> None:
    for entry in hub["config"]["env"]:
        for option in entry.get("input", {}).get("options", []):
            Settings.load({entry["key"]: option["value"]})


def test_every_bound_on_the_form_is_a_good_setting(hub: dict[str, Any]) -> None:
    for entry in hub["config"]["env"]:
        for bound in {"min", "max"} & entry.get("input", {}).keys():
            Settings.load({entry["key"]: str(entry["input"][bound])})


def test_the_presets_are_models_of_the_hub_with_a_quant(hub: dict[str, Any]) -> None:
    presets = hub["config"]["presets"]
    assert len(presets) == 4
    for preset in presets:
        values = {name: as_variable(value) for name, value in preset["defaults"].items()}
        ref = ModelRef.parse(Settings.load(values).model_reference)
        assert isinstance(ref, HubRef)
        assert ref.quant


def test_the_pools_are_runpods(hub: dict[str, Any]) -> None:
    pools = hub["config"]["gpuIds"].split(",")
    assert set(pools) <= set(POOLS)
    assert not set(pools) & {"HOPPER_141", "ADA_80_PRO"}, "the wheels for CUDA 11.8 know no Hopper"


def test_the_default_model_is_the_images() -> None:
    found = re.search(r"^ARG MODEL=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert found
    assert found[1] == docs_hub.DEFAULT_MODEL


def test_every_job_of_the_tests_is_a_good_request() -> None:
    hub_jobs = [test["input"] for test in json.loads(docs_hub.hub_tests())["tests"]]
    assert hub_jobs == [test["input"] for test in json.loads(docs_hub.runner_tests())]
    calls = {call.route: call for call in map(read_job_input, hub_jobs)}
    assert calls.keys() == {"/v1/chat/completions", "/v1/completions", "/v1/models"}
    strict = Defaults(strict=True)
    assert parse_chat(calls["/v1/chat/completions"].body, strict).options.ignored == ()
    assert parse_completion(calls["/v1/completions"].body, strict).options.ignored == ()


def test_the_tests_need_no_download() -> None:
    config = json.loads(docs_hub.hub_tests())["config"]
    assert {"key": "MODEL", "value": "embedded"} in config["env"]
