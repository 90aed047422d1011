"""Whether a model generates text or pools, and how it pools: from its header, and from what the settings ask for."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf.abilities import CLASS_HEADS, Abilities, Pooling, abilities_of, is_encoder
from worker_gguf.gguf.header import ArrayInfo, ModelHeader

__all__ = ["PoolingChoice", "Pools", "has_memory", "pools_of", "served_abilities", "why_other_scores"]

PoolingChoice = Literal["auto", "none", "mean", "cls", "last", "rank"]

# llama.cpp: architectures whose context has no memory (`create_memory` in src/llama-model.cpp), and the one whose
# memory stays empty, because only its encoder is computed (llama-cpp-python 0.3.36).
_WITHOUT_MEMORY: Final = frozenset(
    "bert modern-bert neo-bert eurobert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 gemma-embedding "
    "t5encoder".split()
)


class Pools(Struct, frozen=True):
    """How a model makes one vector of a text, or the scores of a pair of texts.

    `is_whole` means that an input must be computed at once, because its tokens see later ones, or all of them are
    pooled. Another input may be computed in parts. With `has_memory`, the model has a KV or recurrent memory.
    """

    pooling: Pooling
    is_whole: bool
    has_memory: bool

    @property
    def ranks(self) -> bool:
        return self.pooling == "rank"


def pools_of(header: ModelHeader, choice: PoolingChoice, name: str) -> Pools | None:
    """Return how a model pools in an engine process, or None if it generates text there.

    `choice` is the setting POOLING, and `name` the name of the model in messages. Raises ModelInvalid if the model
    cannot do what it should.
    """
    pooling = _chosen(abilities_of(header), choice)
    if pooling is None:
        if choice == "none" and is_encoder(header):
            raise ModelInvalid(f"{name} cannot generate text, because it is an encoder. Unset POOLING.")
        return None
    if pooling == "rank":
        _check_head(header, choice, name)
    is_whole = is_encoder(header) or pooling not in ("last", "rank")
    return Pools(pooling, is_whole=is_whole, has_memory=has_memory(header))


def served_abilities(header: ModelHeader, choice: PoolingChoice) -> Abilities:
    """Return what a model does in an engine process, which either generates text or pools."""
    found = abilities_of(header)
    pooling = _chosen(found, choice)
    generates = pooling is None and not found.sees and not is_encoder(header)
    return Abilities(generates=generates, pools=pooling, sees=found.sees)


def has_memory(header: ModelHeader) -> bool:
    """Return whether llama.cpp keeps something of the tokens that a model has computed."""
    return header.architecture not in _WITHOUT_MEMORY


def why_other_scores(header: ModelHeader) -> str | None:
    """Return why the scores of a ranker differ from the published model's, or None.

    A ranker of BERT's own shape adds another vector to each token of a document than to those of a query, and has a
    layer before its class head. llama.cpp's graph has only the first of the two vectors, and its converter leaves out
    the layer.
    """
    names = {tensor.name for tensor in header.tensors}
    is_bert = header.architecture == "bert" and header.metadata.get("tokenizer.ggml.model") == "bert"
    if not is_bert or "cls.output.weight" not in names or "cls.weight" in names:
        return None
    return "llama.cpp has no segments of BERT and no layer before its class head"


def _chosen(found: Abilities, choice: PoolingChoice) -> Pooling | None:
    if choice == "none" or found.sees:
        return None
    return found.pools if choice == "auto" else choice


def _check_head(header: ModelHeader, choice: PoolingChoice, name: str) -> None:
    """Raise ModelInvalid if a model has no class head, or one that llama.cpp would read wrongly.

    Without a head, llama.cpp gives numbers of the hidden state as scores. It reads as many scores as the file names
    labels, or one, at places that depend on that number.
    """
    shapes = {tensor.name: tensor.shape for tensor in header.tensors if tensor.name in CLASS_HEADS}
    head = next((head for head in CLASS_HEADS if head in shapes), None)
    if head is None:
        says = "POOLING=rank asks it to rank" if choice == "rank" else "Its file says that it ranks"
        raise ModelInvalid(
            f"{name} cannot rank. {says}, but the file has no class head ({' or '.join(CLASS_HEADS)}), so its scores "
            "would mean nothing. Choose a file that was converted with the head, or set POOLING to another value."
        )
    labels = header.get("classifier.output_labels")
    n_labels = labels.length if isinstance(labels, ArrayInfo) else 1
    n_scores = shapes[head][1] if len(shapes[head]) > 1 else 1
    if n_scores != n_labels:
        raise ModelInvalid(
            f"{name} cannot rank: its class head ({head}) gives {n_scores} scores, but its file names {n_labels}. "
            "Choose another file."
        )
