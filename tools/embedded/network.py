"""The network in torch, laid out exactly as llama.cpp computes arch `llama` with experts."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    n_vocab: int = 1024
    n_embd: int = 192
    n_layer: int = 4
    n_head: int = 6
    n_head_kv: int = 2
    n_ff: int = 192
    n_expert: int = 8
    n_expert_used: int = 2
    n_ctx: int = 2048
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


class RMSNorm(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.n_embd))
        self.eps = shape.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    half = torch.arange(0, shape.head_dim, 2) / shape.head_dim
    angles = torch.arange(shape.n_ctx)[:, None] * shape.rope_base ** -half[None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbours (2i, 2i+1): the interleaved layout, so export needs no permutation."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        n_kv = shape.n_head_kv * shape.head_dim
        self.q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.k = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.v = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.o = nn.Linear(shape.n_embd, shape.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        dim = self.shape.head_dim
        q = rotate(self.q(x).view(rows, length, -1, dim).transpose(1, 2), cos, sin)
        k = rotate(self.k(x).view(rows, length, -1, dim).transpose(1, 2), cos, sin)
        v = self.v(x).view(rows, length, -1, dim).transpose(1, 2)
        repeat = self.shape.n_head // self.shape.n_head_kv
        k, v = k.repeat_interleave(repeat, dim=1), v.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        output: Tensor = self.o(mixed.transpose(1, 2).reshape(rows, length, -1))
        return output


def _expert(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


class Experts(nn.Module):
    """Softmax over all gates, the best two, their weights made to sum to one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Linear(shape.n_embd, shape.n_expert, bias=False)
        self.gate = nn.Parameter(torch.empty(shape.n_expert, shape.n_ff, shape.n_embd))
        self.up = nn.Parameter(torch.empty(shape.n_expert, shape.n_ff, shape.n_embd))
        self.down = nn.Parameter(torch.empty(shape.n_expert, shape.n_embd, shape.n_ff))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.reshape(-1, self.shape.n_embd)
        probabilities = self.router(flat).softmax(dim=-1)
        weights, chosen = probabilities.topk(self.shape.n_expert_used, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        mixed, counts = self._mix(flat, weights, chosen)
        return mixed.view_as(x), self._imbalance(probabilities, counts)

    # The sizes of the slices differ at each step, so the compiler could never reuse its work.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _mix(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        # Sorting the (token, choice) pairs by expert makes every expert one contiguous slice.
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.shape.n_expert)
        tokens = order // self.shape.n_expert_used
        slices = flat[tokens].split(counts.tolist())  # type: ignore[no-untyped-call]
        # Unbinding once keeps the backward pass from filling all experts anew for each of them.
        experts = zip(slices, self.gate.unbind(), self.up.unbind(), self.down.unbind(), strict=True)
        outputs = torch.cat([_expert(*expert) for expert in experts])
        outputs = outputs * weights.flatten()[order][:, None]
        return torch.zeros_like(flat).index_add(0, tokens, outputs), counts

    def _imbalance(self, probabilities: Tensor, counts: Tensor) -> Tensor:
        """Is 1 when the experts are used evenly and grows as they are not."""
        share = counts / counts.sum()
        return self.shape.n_expert * (share * probabilities.mean(dim=0)).sum()


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape)
        self.attention = Attention(shape)
        self.experts_norm = RMSNorm(shape)
        self.experts = Experts(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        mixed, imbalance = self.experts(self.experts_norm(x))
        return x + mixed, imbalance


class Network(nn.Module):
    """The output matrix is the embedding itself (tied), as llama.cpp allows."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.n_vocab, shape.n_embd))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.n_layer))
        self.norm = RMSNorm(shape)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    @property
    def typed_layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                continue
            std = 0.02 if name == "embedding" else parameter.shape[-1] ** -0.5
            if name.endswith(("attention.o.weight", "experts.down")):
                std /= (2 * self.shape.n_layer) ** 0.5
            nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the mean imbalance of the experts."""
        length = tokens.shape[1]
        cos, sin = self.get_buffer("cos")[:length], self.get_buffer("sin")[:length]
        x = self.embedding[tokens]
        imbalances = []
        for layer in self.layers:
            x, imbalance = layer(x, cos, sin)
            imbalances.append(imbalance)
        return self.norm(x) @ self.embedding.T, torch.stack(imbalances).mean()
