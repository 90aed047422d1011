"""Tests of a load that runs out of memory: it is tried again with a smaller plan and logs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.plan.test_plan import CPU, GPU, SMALL
from worker_gguf.engine.machine import Machine
from worker_gguf.errors import EngineFailed, ModelInvalid, NotEnoughMemory
from worker_gguf.link.process import EngineDied
from worker_gguf.plan import Constraints, MemoryPlan, plan_memory, smaller_plan
from worker_gguf.start.load import MOST_DEATHS, load_within_memory


@dataclass
class FakeModel:
    plan: MemoryPlan
    is_closed: bool = False

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@dataclass
class Card:
    """A GPU with room for so many layers and so many cells. It records what was tried.

    More than `deadly_cells` end the engine process.
    """

    most_layers: int
    most_cells: int
    deadly_cells: int = 1 << 30
    models: list[FakeModel] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)

    def load(self, plan: MemoryPlan) -> FakeModel:
        n = 29 if plan.n_gpu_layers < 0 else plan.n_gpu_layers
        if n > self.most_layers:
            raise NotEnoughMemory("The model does not fit.")
        self.models.append(FakeModel(plan))
        return self.models[-1]

    def open_engine(self, model: FakeModel, plan: MemoryPlan) -> str:
        assert not model.is_closed
        self.tried.append(plan.n_cells)
        if plan.n_cells > self.deadly_cells:
            raise EngineDied("llama.cpp stopped at CUDA error (ggml-cuda.cu:97).")
        if plan.n_cells > self.most_cells:
            raise NotEnoughMemory("No memory for the sequences.")
        return "engine"

    def run(self, machine: Machine = GPU, constraints: Constraints | None = None) -> tuple[FakeModel, str, MemoryPlan]:
        constraints = constraints or Constraints(shares_memory=True)
        next_plan = partial(smaller_plan, model=SMALL, machine=machine, constraints=constraints)
        plan = plan_memory(SMALL, machine, constraints)
        return load_within_memory(plan, self.load, self.open_engine, next_plan)


def test_what_fits_is_loaded_as_planned() -> None:
    model, engine, plan = Card(29, 8 * 8192).run()
    assert (engine, plan.degraded, model.is_closed) == ("engine", (), False)


def test_sequences_and_context_shrink_on_the_loaded_model() -> None:
    card = Card(29, 4096)
    model, _, plan = card.run()
    assert card.tried == [8 * 8192, 4 * 8192, 2 * 8192, 8192, 4096]
    assert card.models == [model]
    assert (plan.n_parallel, plan.n_ctx) == (1, 4096)
    assert [line.split(" instead")[0] for line in plan.degraded] == [
        "N_PARALLEL=4",
        "N_PARALLEL=2",
        "N_PARALLEL=1",
        "N_CTX=4096",
    ]


def test_layers_leave_the_gpu_one_load_after_another() -> None:
    card = Card(16, 1 << 20)
    model, _, plan = card.run()
    assert plan.n_gpu_layers == 15
    assert card.models == [model]
    assert len(plan.degraded) == 2


def test_a_model_is_given_back_before_it_is_loaded_with_fewer_layers() -> None:
    card = Card(29, 2048)
    card.most_cells = 1024
    model, _, plan = card.run()
    assert [loaded.is_closed for loaded in card.models] == [True] * (len(card.models) - 1) + [False]
    assert (model.plan.n_gpu_layers, plan.n_ctx) == (0, 1024)


def test_the_last_error_is_raised_and_nothing_stays() -> None:
    card = Card(29, 10)
    with pytest.raises(NotEnoughMemory, match="sequences"):
        card.run(CPU)
    assert [model.is_closed for model in card.models] == [True]


def test_settings_are_kept_to_the_end() -> None:
    with pytest.raises(NotEnoughMemory):
        Card(29, 10).run(constraints=Constraints(n_ctx=4096, n_parallel=2, n_gpu_layers=-1))


def test_a_grown_window_shrinks_first() -> None:
    card = Card(29, 8 * 8192)
    _, _, plan = card.run(constraints=Constraints())
    assert (plan.n_parallel, plan.n_ctx) == (8, 8192)
    assert card.tried == [8 * 22_528, 8 * 11_264, 8 * 8192]


def test_a_model_whose_process_dies_is_loaded_again_with_a_smaller_plan(caplog: pytest.LogCaptureFixture) -> None:
    card = Card(29, 1 << 20, deadly_cells=2 * 8192)
    model, engine, plan = card.run()
    assert (engine, plan.n_parallel) == ("engine", 2)
    assert [loaded.is_closed for loaded in card.models] == [True, True, False]
    assert model is card.models[-1]
    assert plan.degraded[-1] == "N_PARALLEL=2 instead of 4: the engine process died while it opened the context"
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [(vars(line)["death"], vars(line)["most"]) for line in lines] == [(1, MOST_DEATHS), (2, MOST_DEATHS)]
    assert all("ggml-cuda.cu:97" in vars(line)["reason"] for line in lines)


def test_deaths_are_bounded_and_the_last_words_are_the_error() -> None:
    card = Card(29, 1 << 20, deadly_cells=0)
    with pytest.raises(EngineFailed, match=rf"stopped at CUDA error.*It died {MOST_DEATHS} times"):
        card.run()
    assert len(card.models) == MOST_DEATHS
    assert all(loaded.is_closed for loaded in card.models)


def test_a_death_with_a_plan_that_is_all_set_fails_at_once() -> None:
    card = Card(29, 1 << 20, deadly_cells=0)
    with pytest.raises(EngineFailed, match=r"ggml-cuda.cu:97\)\.$"):
        card.run(constraints=Constraints(n_ctx=4096, n_parallel=2, n_gpu_layers=-1))
    assert len(card.models) == 1


def test_other_errors_are_not_answered_with_less() -> None:
    card = Card(29, 1 << 20)

    def broken(_model: FakeModel, _plan: MemoryPlan) -> str:
        raise ModelInvalid("Unknown.")

    with pytest.raises(ModelInvalid):
        load_within_memory(plan_memory(SMALL, GPU, Constraints()), card.load, broken, lambda _plan, _stage: None)
    assert card.models[0].is_closed
