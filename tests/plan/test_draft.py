"""Tests of the plan for a draft model beside the served one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.plan.test_plan import CPU, GIB, GPU, LARGE, SMALL, dense, gpus
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.plan import Constraints, left_by, plan_draft, plan_memory, plan_with_draft, smaller_plan
from worker_gguf.plan.draft import DRAFT_N_CTX

TINY = dense(GIB // 2, 16)
FREE = Constraints()


def test_the_draft_model_is_wholly_on_the_gpu_with_the_most_free_memory() -> None:
    machine = gpus(12, 24)
    draft = plan_draft(TINY, machine, Constraints(n_parallel=4))
    assert (draft.gpu, draft.n_parallel, draft.n_ctx) == (1, 4, DRAFT_N_CTX)
    card, main = draft.devices
    assert card.n_layers == 16
    assert main.n_layers == 0
    assert card.kv_bytes == 4 * DRAFT_N_CTX * TINY.kv_bytes_per_token("f16", "f16")


def test_its_memory_is_taken_off_the_machine_before_the_model_is_planned() -> None:
    machine = gpus(12, 24)
    plan = plan_with_draft(SMALL, TINY, machine, FREE)
    assert plan.draft is not None
    left = left_by(plan.draft, machine)
    assert left.gpus[0] == machine.gpus[0]
    taken = machine.gpus[1].free_bytes - left.gpus[1].free_bytes
    card = plan.draft.devices[0]
    assert taken == card.weights_bytes + card.kv_bytes + card.compute_bytes
    assert replace(plan, draft=None) == plan_memory(SMALL, left, FREE)
    assert left_by(None, machine) is machine


def test_without_a_gpu_it_takes_main_memory() -> None:
    for machine, constraints in ((CPU, FREE), (GPU, Constraints(n_gpu_layers=0))):
        plan = plan_with_draft(SMALL, TINY, machine, constraints)
        assert plan.draft is not None
        assert plan.draft.gpu is None
        assert machine.free_bytes - left_by(plan.draft, machine).free_bytes > TINY.weights_bytes
        assert left_by(plan.draft, machine).gpus == machine.gpus


@pytest.mark.parametrize(
    ("n_ctx", "trained", "wanted"), [(4096, 131_072, 4096), (65_536, 131_072, 8192), (0, 2048, 2048)]
)
def test_its_context_is_that_of_a_request_up_to_a_limit(n_ctx: int, trained: int, wanted: int) -> None:
    draft = plan_draft(dense(GIB // 2, 16, n_ctx_train=trained), GPU, Constraints(n_ctx=n_ctx or None, n_parallel=1))
    assert draft.n_ctx == wanted


def test_where_memory_is_short_both_are_planned_for_fewer_sequences() -> None:
    machine = gpus(47)  # the weights of the model take 40 GiB, and 8 sequences of the draft model 4 GiB
    plan = plan_with_draft(LARGE, TINY, machine, FREE)
    assert plan.n_gpu_layers == -1
    assert plan.draft is not None
    assert plan.draft.n_parallel == plan.n_parallel < 8


def test_the_number_of_sequences_that_is_set_stays() -> None:
    plan = plan_with_draft(LARGE, TINY, gpus(64), Constraints(n_parallel=4))
    assert plan.draft is not None
    assert (plan.n_parallel, plan.draft.n_parallel) == (4, 4)


def test_a_smaller_plan_keeps_the_draft_model() -> None:
    plan = plan_with_draft(SMALL, TINY, GPU, FREE)
    smaller = smaller_plan(plan, "context", SMALL, left_by(plan.draft, GPU), FREE)
    assert smaller is not None
    assert smaller.draft == plan.draft


def test_a_draft_model_without_room_is_an_error_that_says_so() -> None:
    with pytest.raises(
        NotEnoughMemory,
        match=r"needs 42.7 GiB for 1 sequence of 8192 tokens, and card 0 has room for .* Unset DRAFT_MODEL",
    ):
        plan_with_draft(SMALL, LARGE, GPU, FREE)
