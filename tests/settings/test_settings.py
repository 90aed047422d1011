from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from worker_gguf.engine.request import SamplingParams
from worker_gguf.errors import SettingsError
from worker_gguf.settings import Settings
from worker_gguf.settings.fields import GROUPS
from worker_gguf.settings.text import expected, type_text

ON_SERVERLESS = {"RUNPOD_ENDPOINT_ID": "e", "RUNPOD_POD_ID": "p"}


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    return caught.value.message


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = Settings.load({})
    assert (settings.model, settings.host, settings.port) == ("embedded", "127.0.0.1", 8000)
    assert settings.n_ctx is settings.n_parallel is settings.n_gpu_layers is None
    assert settings.sampling_defaults() == SamplingParams()
    assert settings == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().n_ctx = 4096  # type: ignore[misc]


def test_the_process_environment_is_read_by_load_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N_CTX", "64")
    assert Settings.load().n_ctx == 64
    assert Settings().n_ctx is None
    assert Settings.load({}).n_ctx is None


def test_overrides_win_over_the_environment() -> None:
    assert Settings.load({"MODEL": "a.gguf", "PORT": "1234"}, model="b.gguf", port=None).model == "b.gguf"
    assert Settings.load({"MODEL": "a.gguf", "PORT": "1234"}, model="b.gguf", port=4321).port == 4321


@pytest.mark.parametrize("name", ["N_CTX", "n_ctx", "N_ctx"])
def test_case_of_the_name_does_not_matter(name: str) -> None:
    assert Settings.load({name: " 4096 "}).n_ctx == 4096


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_unset(text: str) -> None:
    settings = Settings.load({name.upper(): text for name in Settings.model_fields})
    assert settings == Settings()
    assert settings.model_fields_set == set()


@pytest.mark.parametrize(
    "name", ["N_CTX", "N_GPU_LAYERS", "KV_UNIFIED", "MAX_TOKENS", "CONCURRENCY", "MODEL_CACHE_DIR"]
)
def test_auto_leaves_the_choice_to_the_plan(name: str) -> None:
    assert Settings.load({name: "auto"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("N_GPU_LAYERS", "-1", -1),
        ("KV_UNIFIED", "off", False),
        ("FLASH_ATTN", "ON", "on"),
        ("TYPE_K", "Q8_0", "q8_0"),
        ("TENSOR_SPLIT", "3, 1", (3.0, 1.0)),
        ("TEMPERATURE", "0", 0.0),
        ("SAMPLERS", "top_k;temperature", ("top_k", "temperature")),
        ("DRY_SEQUENCE_BREAKERS", '["\\n", ";"]', ("\n", ";")),
        ("MODEL_CACHE_DIR", "/models", Path("/models")),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("STRICT_PARAMETERS", "true", True),
        ("MODE", "HTTP", "http"),
    ],
)
def test_a_value_is_read_as_its_type(name: str, text: str, value: Any) -> None:
    assert getattr(Settings.load({name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("N_CTX", "8k", "a whole number >= 32"),
        ("N_CTX", "31", "a whole number >= 32"),
        ("N_PARALLEL", "257", "<= 256"),
        ("N_GPU_LAYERS", "-2", "a whole number >= -1"),
        ("TEMPERATURE", "-0.1", "a number >= 0"),
        ("TEMPERATURE", "nan", "a number >= 0"),
        ("TOP_P", "1.5", "a number >= 0, <= 1"),
        ("REPEAT_PENALTY", "0", "a number > 0"),
        ("FLASH_ATTN", "maybe", "one of auto, on, off"),
        ("TYPE_K", "q9", "one of f16, f32"),
        ("KV_UNIFIED", "perhaps", "true or false"),
        ("TENSOR_SPLIT", "3,x", "numbers >= 0 separated by commas"),
        ("DRY_SEQUENCE_BREAKERS", "\\n", "a JSON array of texts"),
        ("SAMPLERS", "top_k;magic", "unknown samplers: magic"),
        ("PORT", "70000", "a whole number >= 1, <= 65535"),
        ("PORT_HEALTH", "0", "a whole number >= 1, <= 65535"),
        ("SEED", "4294967296", "a whole number >= -1, < 4294967296"),
    ],
)
def test_the_error_of_a_bad_value_has_the_expected_form(name: str, text: str, wanted: str) -> None:
    message = refusal(**{name: text})
    assert message.startswith(f"{name}=")
    assert wanted in message
    assert "\n" not in message


def test_behind_runpods_balancer_the_limits_stay_under_its_own() -> None:
    def limits(**environ: str) -> tuple[object, ...]:
        found = Settings.load(environ)
        return found.queue_timeout_s, found.request_timeout_s, found.max_body_mb, found.linger_s

    balanced = (60.0, 320.0, 28, 5.0)
    assert limits() == limits(RUNPOD_ENDPOINT_ID="e", RUNPOD_WEBHOOK_GET_JOB="x") == (None, 600.0, 32, 0.0)
    assert limits(RUNPOD_ENDPOINT_ID="e") == balanced
    assert limits(RUNPOD_ENDPOINT_ID="e", RUNPOD_WEBHOOK_GET_JOB="x", MODE="http") == balanced
    assert limits(RUNPOD_ENDPOINT_ID="e", REQUEST_TIMEOUT_S="100", DRAIN_TIMEOUT_S="4") == (60.0, 100.0, 28, 2.0)


@pytest.mark.parametrize("path", ["/v1", "/v1/models", "/metrics", "ping", "/a b", ""])
def test_a_health_check_path_that_cannot_be_served_is_refused(path: str) -> None:
    if path:
        assert "HEALTH_CHECK_PATH" in refusal(HEALTH_CHECK_PATH=path)
    else:
        assert Settings.load({"HEALTH_CHECK_PATH": path}).health_check_path == "/ping"


def test_every_bad_value_is_named_at_once() -> None:
    assert refusal(N_CTX="8k", PORT="http", TOP_P="2").splitlines() == [
        "N_CTX='8k' is not valid: expected a whole number >= 32, <= 16777216.",
        "TOP_P='2' is not valid: expected a number >= 0, <= 1.",
        "PORT='http' is not valid: expected a whole number >= 1, <= 65535.",
    ]


def test_an_override_that_is_no_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="N_CONTEXT is not a setting"):
        Settings.load({}, n_context=4096)


def test_secrets_are_never_shown() -> None:
    settings = Settings.load({"HF_TOKEN": "hf_private", "API_KEYS": "key-one, key-two"})
    assert [key.get_secret_value() for key in settings.api_keys] == ["key-one", "key-two"]
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hf_private" not in shown
        assert "key-one" not in shown
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, api_keys=["key-one", 2], hf_token=3)
    assert "key-one" not in caught.value.message
    assert "HF_TOKEN=(hidden)" in caught.value.message


def test_origins_are_read_as_browsers_send_them() -> None:
    assert Settings.load({}).cors_origins == ()
    assert Settings.load({"CORS_ORIGINS": "*"}).cors_origins == ("*",)
    given = "http://localhost:5173, https://App.example.com/ ,http://[::1]:8080,chrome-extension://abc"
    assert Settings.load({"CORS_ORIGINS": given}).cors_origins == (
        "http://localhost:5173",
        "https://app.example.com",
        "http://[::1]:8080",
        "chrome-extension://abc",
    )


def test_the_hosts_of_images_are_read_in_lower_case() -> None:
    assert Settings.load({}).image_domains == ()
    given = "Images.Example.com., *.cdn.example.com,localhost,10.0.0.5"
    assert Settings.load({"IMAGE_DOMAINS": given}).image_domains == (
        "images.example.com",
        "*.cdn.example.com",
        "localhost",
        "10.0.0.5",
    )
    assert Settings.load({"IMAGE_DOMAINS": "*"}).image_domains == ("*",)


@pytest.mark.parametrize(
    "hosts", ["https://a.example", "a.example/path", "a.example:80", "a.*.example", ",", "a b", "-a"]
)
def test_what_is_no_host_is_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="expected hosts such as"):
        Settings.load({"IMAGE_DOMAINS": hosts})


@pytest.mark.parametrize("origins", ["app.example.com", "https://a.example/path", "*,https://a.example", "null", ","])
def test_what_is_no_origin_is_refused(origins: str) -> None:
    with pytest.raises(SettingsError, match="expected origins such as"):
        Settings.load({"CORS_ORIGINS": origins})


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"MODEL_FILENAME": "a.gguf"}, "need each other"),
        ({"MODEL_REPOSITORY_ID": "org/repo"}, "need each other"),
        ({"MODEL": "m", "MODEL_REPOSITORY_ID": "org/repo", "MODEL_FILENAME": "a.gguf"}, "set only one of them"),
        ({"DRAFT_MODEL": "a.gguf", "MODELS": "one=b.gguf"}, "DRAFT_MODEL guesses for a single model"),
        ({"MMPROJ": "a.gguf", "MODELS": "one=b.gguf"}, "give each entry its own `mmproj`."),
        ({"DRAFT_MODEL": "a.gguf", "SPECULATION": "off"}, "cannot be used with SPECULATION=off"),
        ({"DRAFT_MODEL": "a.gguf", "SPECULATION": "mtp"}, "cannot be used with SPECULATION=mtp"),
        ({"N_BATCH": "256", "N_UBATCH": "512"}, "N_UBATCH=512 exceeds N_BATCH=256"),
        ({"TYPE_V": "q8_0", "FLASH_ATTN": "off"}, "TYPE_V=q8_0 needs flash attention"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ: dict[str, str], wanted: str) -> None:
    assert wanted in refusal(**environ)


def test_the_older_pair_names_a_file_of_a_repository() -> None:
    older = Settings.load({"MODEL_REPOSITORY_ID": "org/repo", "MODEL_FILENAME": "model.Q4_K_M.gguf"})
    assert older.model_reference == "org/repo/model.Q4_K_M.gguf"
    assert Settings.load({"MODEL": "org/repo:Q8_0"}).model_reference == "org/repo:Q8_0"


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({}, "http"),
        ({"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job"}, "queue"),
        ({"RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1/job", "MODE": "http"}, "http"),
        ({"MODE": "queue", "RUNPOD_WEBHOOK_GET_JOB": "https://host/job"}, "queue"),
        (ON_SERVERLESS, "http"),
    ],
)
def test_auto_mode_is_the_queue_where_runpod_offers_jobs(environ: dict[str, str], mode: str) -> None:
    assert Settings.load(environ).resolved_mode == mode


def test_on_runpod_all_interfaces_are_bound_and_port_80() -> None:
    settings = Settings.load(ON_SERVERLESS)
    assert settings.on_runpod
    assert (settings.host, settings.port, settings.health_port) == ("0.0.0.0", 80, 80)
    asked = Settings.load({**ON_SERVERLESS, "HOST": "127.0.0.1", "PORT": "8080", "PORT_HEALTH": "8081"})
    assert (asked.host, asked.port, asked.health_port) == ("127.0.0.1", 8080, 8081)


def test_a_pod_has_no_keys_of_the_platform() -> None:
    assert Settings.load(ON_SERVERLESS).behind_platform_keys
    assert not Settings.load({"RUNPOD_POD_ID": "p"}).behind_platform_keys


def test_the_cache_lies_on_the_volume_where_there_is_one(tmp_path: Path) -> None:
    volume, nowhere = tmp_path, tmp_path / "nowhere"
    assert Settings.load({}).cache_dir(volume) == volume / "huggingface-cache" / "hub"
    assert Settings.load({"MODEL_CACHE_DIR": "/models"}).cache_dir(volume) == Path("/models")
    assert Settings.load({"HF_HOME": "/hf"}).cache_dir(nowhere) == Path("/hf/hub")
    assert Settings.load({"HF_HOME": "/hf", "HF_HUB_CACHE": "/hub"}).cache_dir(nowhere) == Path("/hub")
    assert Settings.load({}).cache_dir(nowhere) == Path("~/.cache/huggingface/hub").expanduser()


def test_models_are_searched_on_the_volume_in_the_cache_setting_and_in_the_librarys_cache(tmp_path: Path) -> None:
    volume, own = tmp_path / "huggingface-cache" / "hub", Path("/own")
    settings = Settings.load({"MODEL_CACHE_DIR": str(own), "HF_HUB_CACHE": "/hub"})
    assert settings.cache_dirs(tmp_path) == [volume, own, Path("/hub")]
    assert Settings.load({"HF_HUB_CACHE": "/hub"}).cache_dirs(tmp_path) == [volume, Path("/hub")]


def test_volume_that_cannot_be_written_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda _path, _mode: False)
    settings = Settings.load({"HF_HUB_CACHE": "/hub"})
    assert settings.cache_dir(tmp_path) == Path("/hub")
    assert settings.cache_dirs(tmp_path) == [tmp_path / "huggingface-cache" / "hub", Path("/hub")]


def test_size_of_the_cache_is_in_gib() -> None:
    assert Settings.load({"MODEL_CACHE_MAX_GB": "1.5"}).model_cache_max_bytes == 3 * 2**29
    assert Settings.load({}).model_cache_max_bytes is None


def test_every_sampler_has_a_default_that_can_be_set() -> None:
    asked_per_request = {"logit_bias"}
    samplers = set(SamplingParams.__struct_fields__) - asked_per_request
    assert samplers <= set(Settings.model_fields)
    settings = Settings.load({"TOP_K": "7", "SEED": "-1", "SAMPLERS": "top_k", "MIROSTAT": "2"})
    assert settings.sampling_defaults() == SamplingParams(top_k=7, samplers=("top_k",), mirostat=2)
    assert Settings.load({"SEED": "5"}).sampling_defaults().seed == 5


def test_every_field_is_in_one_group_and_has_a_line_of_help() -> None:
    assert sorted(name for group in GROUPS for name in group.__annotations__) == sorted(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert len(field.description) <= 100, name
        assert expected(field), name
        assert type_text(field) in {"text", "path", "secret", "int", "float", "bool", "choice", "list"}, name


@given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)).map(str.upper), st.text(max_size=40)))
def test_any_text_in_any_variable_is_read_or_refused_by_name(environ: dict[str, str]) -> None:
    try:
        Settings.load(environ)
    except SettingsError as error:
        message = error.message
    else:
        return
    assert any(name in message for name in environ)


def test_an_override_of_none_leaves_the_variable_as_it_is() -> None:
    settings = Settings.load({"PORT": "8123", "MODEL": "a.gguf"}, port=None, model="b.gguf")
    assert (settings.port, settings.model) == (8123, "b.gguf")


@pytest.mark.parametrize(
    ("repository", "filename", "reference"),
    [
        ("org/repo", "folder/a.gguf", "org/repo/folder/a.gguf"),
        ("org/repo@main", "a.gguf", "org/repo/a.gguf@main"),
        ("org/repo/", "a.gguf", "org/repo/a.gguf"),
        ("org/repo", "Q4_K_M", "org/repo:Q4_K_M"),
    ],
)
def test_the_older_pair_is_read_as_one_reference(repository: str, filename: str, reference: str) -> None:
    assert Settings(model_repository_id=repository, model_filename=filename).model_reference == reference
