"""How a ranker reads a query and a document, by its file."""

from __future__ import annotations

from typing import Final

from worker_gguf.gguf import ModelHeader
from worker_gguf.service.pooling_prompts import PairForm

__all__ = ["pair_form"]

_TEMPLATE: Final = "tokenizer.chat_template.rerank"
_EOS: Final = "tokenizer.ggml.add_eos_token"
_SEPARATOR: Final = "tokenizer.ggml.add_sep_token"
# The values of `tokenizer.ggml.model`, each with the number of separators between two texts in an encoder's published
# form: `[CLS] query [SEP] document [SEP]` of BERT and `<s> query </s></s> document </s>` of XLM-RoBERTa.
_PUBLISHED: Final = {"bert": 1, "t5": 2}


def pair_form(header: ModelHeader) -> PairForm:
    """Return the form of a pair.

    A file that states which special tokens stand around two texts is read as llama-server reads it. Older files of
    encoders do not state it, and llama.cpp's defaults then leave out a separator that the model was trained with.
    """
    metadata = header.metadata
    if isinstance(template := metadata.get(_TEMPLATE), str):
        return PairForm(template)
    is_stated = metadata.get(_EOS) is False or (_EOS in metadata and _SEPARATOR in metadata)
    if is_stated or not _is_bert(header):
        return PairForm()
    return PairForm(n_between=_PUBLISHED.get(str(metadata.get("tokenizer.ggml.model"))))


def _is_bert(header: ModelHeader) -> bool:
    return "bert" in header.architecture
