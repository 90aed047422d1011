"""Writes the trained network as a GGUF that llama.cpp loads as arch `llama` with experts."""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from tools.embedded import template
from tools.embedded.network import Network, Shape
from tools.embedded.vocabulary import BOS, EOS, EOT, SPECIAL_TOKENS, token_id

NAME = "worker-gguf embedded"
FILE_TYPE_Q8_0 = 7

Tensors = dict[str, NDArray[np.float32]]


def write(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    _header(writer, network.shape)
    _vocabulary(writer, tokenizer)
    writer.add_chat_template(template.source())
    for name, values in tensors(network).items():
        _tensor(writer, name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(network: Network) -> Tensors:
    """Name every parameter as llama.cpp does."""
    found: dict[str, Tensor] = {"token_embd.weight": network.embedding, "output_norm.weight": network.norm.weight}
    for i, layer in enumerate(network.typed_layers):
        found |= {
            f"blk.{i}.attn_norm.weight": layer.attention_norm.weight,
            f"blk.{i}.attn_q.weight": layer.attention.q.weight,
            f"blk.{i}.attn_k.weight": layer.attention.k.weight,
            f"blk.{i}.attn_v.weight": layer.attention.v.weight,
            f"blk.{i}.attn_output.weight": layer.attention.o.weight,
            f"blk.{i}.ffn_norm.weight": layer.experts_norm.weight,
            f"blk.{i}.ffn_gate_inp.weight": layer.experts.router.weight,
            f"blk.{i}.ffn_gate_exps.weight": layer.experts.gate,
            f"blk.{i}.ffn_up_exps.weight": layer.experts.up,
            f"blk.{i}.ffn_down_exps.weight": layer.experts.down,
        }
    return {name: p.detach().float().contiguous().numpy() for name, p in found.items()}


def _tensor(writer: GGUFWriter, name: str, values: NDArray[np.float32]) -> None:
    # Norms and routers are tiny and decide much, so they keep every bit.
    if values.ndim == 1 or name.endswith("ffn_gate_inp.weight"):
        writer.add_tensor(name, values)
        return
    kind = GGMLQuantizationType.Q8_0
    writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)


def _header(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_name(NAME)
    writer.add_file_type(FILE_TYPE_Q8_0)
    writer.add_quantization_version(2)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_expert_count(shape.n_expert)
    writer.add_expert_used_count(shape.n_expert_used)
    writer.add_vocab_size(shape.n_vocab)


def _vocabulary(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    kinds = [TokenType.CONTROL if t in SPECIAL_TOKENS else TokenType.NORMAL for t in tokens]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_bos_token_id(token_id(tokenizer, BOS))
    # Llama 3's instruct models name the end of a turn as their end: chats stop there.
    writer.add_eos_token_id(token_id(tokenizer, EOT))
    writer.add_eot_token_id(token_id(tokenizer, EOT))
    writer.add_pad_token_id(token_id(tokenizer, EOS))
    writer.add_add_bos_token(True)
