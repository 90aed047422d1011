"""Tiny models with random weights, of kinds that the embedded model is not: a sliding window, a recurrent memory, a
hybrid one, a mixture of experts, an encoder, a reranker, a model that fills gaps, one whose positions have several
dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from bench import gguf_file, words
from bench.gguf_file import Tensor, TensorType, Value

__all__ = [
    "FIM_TOKENS",
    "WINDOW",
    "write_attention",
    "write_encoder",
    "write_hybrid",
    "write_infill",
    "write_mixture",
    "write_multi_rope",
    "write_recurrent",
    "write_reranker",
    "write_sliding_window",
]

WINDOW = 16
"""Tokens that a layer of the sliding-window model looks back on."""

FIM_TOKENS = {"pre": 258, "suf": 259, "mid": 260, "rep": 261, "sep": 262}
"""The tokens with which the model that fills gaps marks the parts of a prompt."""

_N_EMBD, _N_HEAD, _N_FF, _N_CTX = 32, 2, 64, 512
_N_STATE, _N_RANK = 4, 2
_BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "▁cat", "▁dog", "▁sat", "▁on", "▁the", "▁mat"]


def write_sliding_window(path: Path) -> Path:
    """Write a model of Gemma 3's shape: five layers with a window of 16 tokens, then one that sees everything."""
    n_layers = 6
    gguf_file.write(
        path,
        _common("gemma3", n_layers)
        | {
            "gemma3.attention.key_length": 16,
            "gemma3.attention.value_length": 16,
            "gemma3.attention.head_count_kv": 1,
            "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
            "gemma3.attention.sliding_window": WINDOW,
            "gemma3.rope.freq_base": 10_000.0,
        }
        | _byte_vocabulary(),
        list(_gemma_tensors(np.random.default_rng(3), n_layers)),
    )
    return path


def write_recurrent(path: Path) -> Path:
    """Write a model of Mamba's shape: one state for each sequence, and no KV cache."""
    n_layers = 2
    metadata = _common("mamba", n_layers) | {
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "mamba.ssm.conv_kernel": 4,
        "mamba.ssm.inner_size": 2 * _N_EMBD,
        "mamba.ssm.state_size": _N_STATE,
        "mamba.ssm.time_step_rank": _N_RANK,
    }
    tensors = list(_mamba_tensors(np.random.default_rng(7), n_layers))
    gguf_file.write(path, metadata | _byte_vocabulary(), tensors)
    return path


def write_hybrid(path: Path) -> Path:
    """Write a model of Jamba's shape: four layers, of which the second has attention and the others a state."""
    heads = np.array([0, 1, 0, 0], np.int32)
    metadata = _common("jamba", len(heads)) | {
        "jamba.attention.head_count_kv": heads,
        "jamba.attention.layer_norm_rms_epsilon": 1e-5,
        "jamba.ssm.conv_kernel": 4,
        "jamba.ssm.inner_size": 2 * _N_EMBD,
        "jamba.ssm.state_size": _N_STATE,
        "jamba.ssm.time_step_rank": _N_RANK,
    }
    gguf_file.write(path, metadata | _byte_vocabulary(), list(_jamba_tensors(np.random.default_rng(9), list(heads))))
    return path


def write_attention(path: Path) -> Path:
    """Write a model of Llama's shape, whose answers depend on every token of the prompt."""
    return _write_llama(path)


def write_infill(path: Path) -> Path:
    """Write a model with attention and the tokens that mark the parts of a prompt with a gap."""
    return _write_llama(path, vocabulary=_byte_vocabulary() | _fim_vocabulary())


def write_mixture(path: Path) -> Path:
    """Write a model of Mixtral's shape: attention, and two of four experts for each token."""
    return _write_llama(path, 4)


def write_multi_rope(path: Path) -> Path:
    """Write a model of Qwen2-VL's shape, where a row of an image has a place in two dimensions."""
    n_layers = 2
    metadata = _common("qwen2vl", n_layers) | {
        "qwen2vl.attention.head_count_kv": 1,
        "qwen2vl.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen2vl.rope.dimension_sections": np.array([2, 3, 3, 0], np.int32),
    }
    rng = np.random.default_rng(19)
    tensors = list(_llama_tensors(rng, n_layers))
    for layer in range(n_layers):
        for name, n in (("attn_q", 32), ("attn_k", 16), ("attn_v", 16)):
            tensors.append(_constant(f"blk.{layer}.{name}.bias", n, 0.1))
    gguf_file.write(path, metadata | _byte_vocabulary(), tensors)
    return path


def write_encoder(path: Path) -> Path:
    """Write an encoder of BERT's shape whose pooling is the mean."""
    return _write_bert(path, pooling=1, classes=0)


def write_reranker(
    path: Path,
    *,
    classes: int = 1,
    labels: Sequence[str] = (),
    pooling: int | None = 4,
    adds: Mapping[str, bool] = MappingProxyType({}),
) -> Path:
    """Write an encoder of BERT's shape with a head that ranks.

    `labels` are the names of the scores, if it has any. `adds` says which of `bos`, `eos` and `sep` a text gets.
    """
    return _write_bert(path, pooling=pooling, classes=classes, labels=labels, adds=adds)


def _write_llama(path: Path, *n_experts: int, vocabulary: dict[str, Value] | None = None) -> Path:
    n_layers, vocabulary = 2, vocabulary or _byte_vocabulary()
    metadata = _common("llama", n_layers) | {
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 16,
    }
    if n_experts:
        metadata |= {"llama.expert_count": n_experts[0], "llama.expert_used_count": 2}
    tokens = vocabulary["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tensors = list(_llama_tensors(np.random.default_rng(15), n_layers, *n_experts, n_vocab=len(tokens)))
    gguf_file.write(path, metadata | vocabulary, tensors)
    return path


def _write_bert(
    path: Path,
    pooling: int | None,
    classes: int,
    labels: Sequence[str] = (),
    adds: Mapping[str, bool] = MappingProxyType({}),
) -> Path:
    n_layers = 2
    metadata = _common("bert", n_layers) | {
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": _BERT_WORDS,
        "tokenizer.ggml.token_type": np.array([3] * 5 + [1] * (len(_BERT_WORDS) - 5), np.int32),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    if pooling is not None:
        metadata["bert.pooling_type"] = pooling
    metadata |= {f"tokenizer.ggml.add_{kind}_token": value for kind, value in adds.items()}
    if labels:
        metadata["bert.classifier.output_labels"] = labels
    gguf_file.write(path, metadata, list(_bert_tensors(np.random.default_rng(5), n_layers, classes)))
    return path


def _common(architecture: str, n_layers: int) -> dict[str, Value]:
    return {
        "general.architecture": architecture,
        "general.name": f"tiny {architecture}",
        "general.file_type": 0,
        f"{architecture}.block_count": n_layers,
        f"{architecture}.context_length": _N_CTX,
        f"{architecture}.embedding_length": _N_EMBD,
        f"{architecture}.feed_forward_length": _N_FF,
        f"{architecture}.attention.head_count": _N_HEAD,
    }


def _byte_vocabulary() -> dict[str, Value]:
    tokens = [*words.byte_characters(), "<bos>", "<eos>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * 256 + [3] * 2, np.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
        "tokenizer.ggml.add_bos_token": True,
    }


def _fim_vocabulary() -> dict[str, Value]:
    """Return what replaces parts of `_byte_vocabulary`."""
    names = [*words.byte_characters(), "<bos>", "<eos>", *(f"<fim_{kind}>" for kind in FIM_TOKENS)]
    return {
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": np.array([1] * 256 + [3] * (len(names) - 256), np.int32),
        **{f"tokenizer.ggml.fim_{kind}_token_id": token for kind, token in FIM_TOKENS.items()},
    }


def _random(rng: np.random.Generator, name: str, *shape: int, gain: float = 1.0) -> Tensor:
    """Return a matrix whose product with a row of ones has a spread of about `gain`."""
    values = rng.standard_normal(int(np.prod(shape)), np.float32) * np.float32(gain / shape[0] ** 0.5)
    return Tensor(name, shape, TensorType.F32, lambda: [values.view(np.uint8)])


def _constant(name: str, n: int | tuple[int, ...], value: float) -> Tensor:
    shape = (n,) if isinstance(n, int) else n
    return Tensor(name, shape, TensorType.F32, lambda: [np.full(int(np.prod(shape)), value, np.float32).view(np.uint8)])


def _gemma_tensors(rng: np.random.Generator, n_layers: int) -> Iterator[Tensor]:
    random = partial(_random, rng)
    # Its own output matrix too, so that the logits are not those of the very token that stands there.
    yield random("token_embd.weight", _N_EMBD, 258)
    yield random("output.weight", _N_EMBD, 258, gain=3.0)
    yield _constant("output_norm.weight", _N_EMBD, 1.0)
    for layer in range(n_layers):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            yield _constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)
        for norm in ("attn_q_norm", "attn_k_norm"):
            yield _constant(f"{prefix}{norm}.weight", 16, 2.0)
        yield random(f"{prefix}attn_q.weight", _N_EMBD, 32)
        yield random(f"{prefix}attn_k.weight", _N_EMBD, 16)
        yield random(f"{prefix}attn_v.weight", _N_EMBD, 16)
        yield random(f"{prefix}attn_output.weight", 32, _N_EMBD)
        yield random(f"{prefix}ffn_gate.weight", _N_EMBD, _N_FF)
        yield random(f"{prefix}ffn_up.weight", _N_EMBD, _N_FF)
        yield random(f"{prefix}ffn_down.weight", _N_FF, _N_EMBD)


def _mamba_tensors(rng: np.random.Generator, n_layers: int) -> Iterator[Tensor]:
    yield from _ends(rng)
    for layer in range(n_layers):
        yield _constant(f"blk.{layer}.attn_norm.weight", _N_EMBD, 1.0)
        yield from _mamba_layer(rng, f"blk.{layer}.")


def _jamba_tensors(rng: np.random.Generator, heads: list[int]) -> Iterator[Tensor]:
    yield from _ends(rng)
    for layer, n_heads in enumerate(heads):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            yield _constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)
        yield from _feed_forward(rng, prefix)
        if n_heads:
            yield from _attention(rng, prefix)
            continue
        yield from _mamba_layer(rng, prefix)
        yield _constant(f"{prefix}ssm_dt_norm.weight", _N_RANK, 1.0)
        yield _constant(f"{prefix}ssm_b_norm.weight", _N_STATE, 1.0)
        yield _constant(f"{prefix}ssm_c_norm.weight", _N_STATE, 1.0)


def _llama_tensors(rng: np.random.Generator, n_layers: int, *n_experts: int, n_vocab: int = 258) -> Iterator[Tensor]:
    yield from _ends(rng, n_vocab)
    for layer in range(n_layers):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            yield _constant(f"{prefix}{norm}.weight", _N_EMBD, 1.0)
        yield from _attention(rng, prefix)
        if n_experts:
            yield _random(rng, f"{prefix}ffn_gate_inp.weight", _N_EMBD, *n_experts)
        yield from _feed_forward(rng, prefix, "_exps" if n_experts else "", *n_experts)


def _ends(rng: np.random.Generator, n_vocab: int = 258) -> Iterator[Tensor]:
    # The output has a matrix of its own, so that the logits are not those of the very token that stands there.
    yield _random(rng, "token_embd.weight", _N_EMBD, n_vocab)
    yield _random(rng, "output.weight", _N_EMBD, n_vocab, gain=3.0)
    yield _constant("output_norm.weight", _N_EMBD, 1.0)


def _attention(rng: np.random.Generator, prefix: str) -> Iterator[Tensor]:
    # Scores with a spread of about 2, so that the attention looks at few tokens, and each of them counts.
    yield _random(rng, f"{prefix}attn_q.weight", _N_EMBD, 32, gain=2.0)
    yield _random(rng, f"{prefix}attn_k.weight", _N_EMBD, 16)
    yield _random(rng, f"{prefix}attn_v.weight", _N_EMBD, 16)
    yield _random(rng, f"{prefix}attn_output.weight", 32, _N_EMBD)


def _feed_forward(rng: np.random.Generator, prefix: str, suffix: str = "", *n_experts: int) -> Iterator[Tensor]:
    yield _random(rng, f"{prefix}ffn_gate{suffix}.weight", _N_EMBD, _N_FF, *n_experts)
    yield _random(rng, f"{prefix}ffn_up{suffix}.weight", _N_EMBD, _N_FF, *n_experts)
    yield _random(rng, f"{prefix}ffn_down{suffix}.weight", _N_FF, _N_EMBD, *n_experts)


def _mamba_layer(rng: np.random.Generator, prefix: str) -> Iterator[Tensor]:
    random, n_inner = partial(_random, rng), 2 * _N_EMBD
    yield random(f"{prefix}ssm_in.weight", _N_EMBD, 2 * n_inner)
    yield random(f"{prefix}ssm_conv1d.weight", 4, n_inner)
    yield _constant(f"{prefix}ssm_conv1d.bias", n_inner, 0.0)
    yield random(f"{prefix}ssm_x.weight", n_inner, _N_RANK + 2 * _N_STATE)
    yield random(f"{prefix}ssm_dt.weight", _N_RANK, n_inner)
    yield _constant(f"{prefix}ssm_dt.bias", n_inner, -1.0)
    # The state halves in about 50 tokens, so that far tokens count.
    yield _constant(f"{prefix}ssm_a", (_N_STATE, n_inner), -0.05)
    yield _constant(f"{prefix}ssm_d", n_inner, 1.0)
    yield random(f"{prefix}ssm_out.weight", n_inner, _N_EMBD)


def _bert_tensors(rng: np.random.Generator, n_layers: int, classes: int) -> Iterator[Tensor]:
    random = partial(_random, rng)

    def linear(name: str, n_in: int, n_out: int) -> Iterator[Tensor]:
        yield random(f"{name}.weight", n_in, n_out)
        yield _constant(f"{name}.bias", n_out, 0.1)

    def norm(name: str) -> Iterator[Tensor]:
        yield _constant(f"{name}.weight", _N_EMBD, 1.0)
        yield _constant(f"{name}.bias", _N_EMBD, 0.0)

    yield random("token_embd.weight", _N_EMBD, len(_BERT_WORDS))
    yield random("token_types.weight", _N_EMBD, 2)
    yield random("position_embd.weight", _N_EMBD, _N_CTX)
    yield from norm("token_embd_norm")
    for layer in range(n_layers):
        prefix = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from linear(prefix + name, _N_EMBD, _N_EMBD)
        yield from norm(prefix + "attn_output_norm")
        yield from linear(prefix + "ffn_up", _N_EMBD, _N_FF)
        yield from linear(prefix + "ffn_down", _N_FF, _N_EMBD)
        yield from norm(prefix + "layer_output_norm")
    if classes:
        yield from linear("cls", _N_EMBD, _N_EMBD)
        yield from linear("cls.output", _N_EMBD, classes)
