"""A projector (mmproj file): what its header says of the images that it can encode, and for which model."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from worker_gguf.gguf.abilities import abilities_of
from worker_gguf.gguf.header import ModelHeader

__all__ = ["ProjectorShape", "projector_shape", "why_not_for"]

# The facts of kinds of projectors are those of mtmd (clip.cpp and mtmd.cpp, llama-cpp-python 0.3.36).
# The positions or the padding of an image depend on those before it, so its rows could not be used again elsewhere.
_DEPENDENT: Final = ("deepseek4v", "hunyuanvl")
# llama.cpp ends the process when models of these architectures are to compute rows: the first ones without M-RoPE, the
# others always.
_NEEDS_SECTIONS: Final = ("glm4", "glm4moe")
_TAKES_TOKENS: Final = ("granite-switch",)
# The rows of an image see each other, except with these widths of Gemma 4's models.
_TOGETHER: Final = ("gemma3", "gemma4v", "gemma4uv")
_CAUSAL_WIDTHS: Final = {"gemma4v": (1536, 2560)}
# The most rows of an image, where neither the image size nor a key bounds them, and the patches of a row.
_MOST_ROWS: Final = {
    "qwen2vl_merger": (4096, 4), "qwen2.5vl_merger": (4096, 4), "qwen3vl_merger": (4096, 4), "ling3vl": (4096, 4),
    "qwen2.5o": (4096, 4), "glm4v": (4096, 4), "exaone4_5": (4096, 4), "pixtral": (1024, 1), "kimivl": (1024, 4),
    "lfm2": (256, 4), "gemma4v": (1120, 9), "gemma4uv": (1120, 1),
}  # fmt: skip
_GEMMA3_MERGE: Final = 4


class ProjectorShape(Struct, frozen=True):
    """What determines the memory of a projector.

    `n_patches` is the number of patches of the largest image that is encoded at once. `most_together` is the most
    rows of an image that see each other and must be computed together; 0 if each looks back alone.
    """

    weights_bytes: int
    n_patches: int
    n_embd: int
    n_ff: int
    most_together: int = 0


def projector_shape(header: ModelHeader, model: ModelHeader) -> ProjectorShape:
    """Derive the shape of a projector for a model."""
    kind = _kind(header)
    rows, per_row = _MOST_ROWS.get(kind, (0, 0))
    patch = max(1, _integer(header, "patch_size"))
    n_patches = rows * per_row or (_integer(header, "image_size") // patch) ** 2
    if (most := _integer(header, "image_max_pixels")) and kind not in _MOST_ROWS:
        n_patches = most // patch**2
    together = kind in _TOGETHER and model.n_embd not in _CAUSAL_WIDTHS.get(kind, ())
    if together and not rows:
        rows = n_patches // (_integer(header, "projector.scale_factor") or _GEMMA3_MERGE) ** 2
    return ProjectorShape(
        weights_bytes=header.weights_bytes,
        n_patches=n_patches,
        n_embd=_integer(header, "embedding_length"),
        n_ff=_integer(header, "feed_forward_length"),
        most_together=rows if together else 0,
    )


def why_not_for(header: ModelHeader, model: ModelHeader) -> str | None:
    """Return why a projector cannot encode images for a model, as a clause, or None if its header allows it.

    Whatever projects the rows to the width of the model has a tensor with that width.
    """
    if not abilities_of(header).sees:
        return "it is no projector"
    if header.metadata.get("clip.has_vision_encoder") is not True:
        return "it encodes sounds alone, which are not served yet"
    if (kind := _kind(header)) in _DEPENDENT:
        return f"images of its kind ({kind}) depend on those before them, which is not supported"
    if model.architecture in _TAKES_TOKENS:
        return f"models of the architecture {model.architecture} compute tokens alone"
    if model.architecture in _NEEDS_SECTIONS and model.get("rope.dimension_sections") is None:
        return "the model's file has no rope.dimension_sections, without which it cannot compute images"
    # Those of the encoders themselves may have the same width by chance.
    projecting = [tensor for tensor in header.tensors if not tensor.name.startswith(("v.", "a."))]
    if not any(model.n_embd in tensor.shape for tensor in projecting):
        return f"it belongs to another model: none of its tensors has the {model.n_embd} numbers of this model's rows"
    return None


def _kind(header: ModelHeader) -> str:
    kind = header.metadata.get("clip.projector_type") or header.metadata.get("clip.vision.projector_type")
    return kind if isinstance(kind, str) else ""


def _integer(header: ModelHeader, key: str) -> int:
    value = header.metadata.get(f"clip.vision.{key}")
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
