"""Trains the network on the corpus; the same seed and step count give the same run."""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from tools.embedded import corpus
from tools.embedded.batches import Batch, batches, rows
from tools.embedded.network import Network, Shape

LOG_EVERY = 100

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    n_steps: int
    tokens_per_batch: int = 2048
    learning_rate: float = 3e-3
    final_rate: float = 3e-5
    warmup: int = 100
    weight_decay: float = 0.05
    balance: float = 0.01
    n_threads: int = 2
    compile: bool = True

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.n_steps - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return self.final_rate + (self.learning_rate - self.final_rate) * cosine


def first_network(seed: int, shape: Shape) -> Network:
    torch.manual_seed(seed)
    return Network(shape)


def train(network: Network, tokenizer: Tokenizer, schedule: Schedule, checkpoint: Path) -> None:
    """Train in place and leave the weights in `checkpoint`, also now and then on the way."""
    torch.set_num_threads(schedule.n_threads)
    # Compiling fuses the small operations and takes a third off the time of a step.
    forward: Forward = torch.compile(network, dynamic=True) if schedule.compile else network
    optimizer = _optimizer(network, schedule)
    started, shown = time.monotonic(), 0.0
    stream = _endless(tokenizer, schedule, network.shape)
    for step in range(schedule.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss, imbalance = _loss(forward, next(stream))
        optimizer.zero_grad(set_to_none=True)
        (loss + schedule.balance * imbalance).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        shown += loss.item() / LOG_EVERY
        if (step + 1) % LOG_EVERY == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1} loss {shown:.4f} imbalance {imbalance.item():.3f} {seconds:.0f}s", flush=True)
            shown = 0.0
            torch.save(network.state_dict(), checkpoint)
    torch.save(network.state_dict(), checkpoint)


def _optimizer(network: Network, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)


def _endless(tokenizer: Tokenizer, schedule: Schedule, shape: Shape) -> Iterator[Batch]:
    """Fresh conversations for ever: nothing is seen twice unless the generator says it twice."""
    chunk = 0
    while True:
        seed = schedule.seed * 1_000_003 + chunk
        fresh = rows(tokenizer, corpus.training(seed, 4096))
        yield from batches(random.Random(seed), fresh, schedule.tokens_per_batch, shape.n_ctx)
        chunk += 1


def _loss(forward: Forward, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    logits, imbalance = forward(torch.from_numpy(batch.tokens))
    weights = torch.from_numpy(batch.weights).flatten()
    targets = torch.from_numpy(batch.targets).flatten()
    losses = F.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), imbalance
