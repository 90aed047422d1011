"""Tests of the checks on given facts: each failure is a sentence with a next step."""

from __future__ import annotations

import math

import pytest

from worker_gguf.start.checks import Check, FileFacts, GpuFacts, TokenFacts, VolumeFacts, model, refusal

CUDA = ("CUDA",)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (GpuFacts(CUDA, 0), "built for CUDA but finds no GPU"),
        (GpuFacts(CUDA, 0, wanted=-1), "finds no GPU"),
        (GpuFacts(CUDA, 1, n_promised=2), "RUNPOD_GPU_COUNT=2 but llama.cpp finds 1"),
        (GpuFacts((), 0, wanted=20), "N_GPU_LAYERS=20, but this llama.cpp is built for the processor only"),
        (GpuFacts((), 0, n_promised=1), "RUNPOD_GPU_COUNT=1, but this llama.cpp is built for the processor only"),
    ],
)
def test_gpus_that_were_asked_or_paid_for_and_are_not_used_fail(facts: GpuFacts, said: str) -> None:
    check = facts.devices()
    assert not check.ok
    assert said in check.reason
    assert check.reason.endswith(".")


@pytest.mark.parametrize(
    "facts",
    [
        GpuFacts(CUDA, 0, wanted=0),
        GpuFacts(CUDA, 0, n_promised=4, wanted=0),
        GpuFacts((), 0),
        GpuFacts((), 0, n_promised=0),
        GpuFacts((), 0, n_promised=2, wanted=0),
        GpuFacts(CUDA, 2, n_promised=2),
        GpuFacts(CUDA, 2),
    ],
)
def test_devices_that_are_as_asked_pass(facts: GpuFacts) -> None:
    assert facts.devices().ok


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (GpuFacts(CUDA, 1, planned=0), "No layer of the model fits"),
        (GpuFacts(CUDA, 1, planned=-1, offloaded=(0, 33)), "put 0 of 33 layers on the GPU, but 33 were planned"),
        (GpuFacts(CUDA, 1, planned=-1, offloaded=(32, 33)), "put 32 of 33"),
        (GpuFacts(CUDA, 1, planned=20, offloaded=(19, 33)), "put 19 of 33 layers on the GPU, but 20 were planned"),
        (GpuFacts(CUDA, 1, planned=-1, taken_bytes=1 << 30, planned_bytes=8 << 30), "1024 MiB of its memory"),
    ],
)
def test_layers_that_did_not_get_to_the_gpu_fail(facts: GpuFacts, said: str) -> None:
    check = facts.offload()
    assert not check.ok
    assert said in check.reason


@pytest.mark.parametrize(
    "facts",
    [
        GpuFacts(CUDA, 1, planned=-1, offloaded=(33, 33)),
        GpuFacts(CUDA, 1, planned=99, offloaded=(33, 33)),
        GpuFacts(CUDA, 1, planned=20, offloaded=(20, 33)),
        GpuFacts(CUDA, 1, planned=-1, taken_bytes=9 << 30, planned_bytes=8 << 30),
        GpuFacts(CUDA, 1, wanted=0),
        GpuFacts((), 0),
    ],
)
def test_layers_where_they_were_planned_pass(facts: GpuFacts) -> None:
    assert facts.offload().ok


def test_a_file_that_is_shorter_than_its_header_says_or_has_another_digest_fails() -> None:
    assert model([FileFacts("a", 100, 100), FileFacts("b", 101, 100)]).ok
    short = model([FileFacts("a", 100, 100), FileFacts("b", 99, 100)])
    assert not short.ok
    assert short.reason.startswith("The model's file b has 99 bytes, but its header requires 100")
    wrong = model([FileFacts("a", 100, 100, "right"), FileFacts("b", 100, 100, "wrong")])
    assert not wrong.ok
    assert wrong.reason.startswith("The model's file b has a different SHA-256")


def test_the_files_of_a_draft_model_are_a_check_of_their_own() -> None:
    check = model([FileFacts("a", 99, 100)], "draft model")
    assert (check.name, check.ok) == ("draft_model", False)
    assert check.reason.startswith("The draft model's file a has 99 bytes")


def test_the_reason_tells_whether_the_digest_was_compared() -> None:
    assert "SHA-256 as in the cache" in model([FileFacts("a", 1, 1, "right"), FileFacts("b", 1, 1, "right")]).reason
    assert "has no SHA-256" in model([FileFacts("a", 1, 1, "right"), FileFacts("b", 1, 1, "unknown")]).reason


def test_a_volume_that_cannot_be_written_fails_and_a_full_one_does_not() -> None:
    assert VolumeFacts("the cache").check().ok
    assert VolumeFacts("the cache", "No space left on device", is_full=True).check().ok
    check = VolumeFacts("the cache", "Read-only file system").check()
    assert not check.ok
    assert "The cache cannot be written (Read-only file system)" in check.reason


@pytest.mark.parametrize("facts", [TokenFacts(), TokenFacts(math.nan), TokenFacts(-math.inf), TokenFacts(error="no.")])
def test_no_token_or_one_of_no_number_fails(facts: TokenFacts) -> None:
    assert not facts.check().ok


def test_a_token_with_a_number_passes() -> None:
    assert TokenFacts(-0.5).check().ok


def test_the_refusal_has_every_sentence_of_those_that_failed_and_all_checks() -> None:
    checks = (Check("a", True, "good"), Check("b", False, "Bad. Mend it."), Check("c", False, "Worse."))
    error = refusal(checks)
    assert error is not None
    assert error.message == "Bad. Mend it. Worse."
    assert [check["name"] for check in error.checks] == ["a", "b", "c"]
    assert refusal(checks[:1]) is None
