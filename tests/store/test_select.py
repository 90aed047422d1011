"""Tests that a quantisation selects exactly its files, or gives the list of all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.shared_case import read_case
from worker_gguf.errors import ModelNotFound
from worker_gguf.store.select import Kind, ModelFiles, by_labels, choose, group

_DARK = "L3.2-8X3B-MOE-Dark-Champion-Inst-18.4B-uncen-ablit_D_AU"
DARK = [
    ".gitattributes",
    "README.md",
    *(f"{_DARK}-{q}.gguf" for q in ("IQ4_XS", "Q2_k", "Q3_k_l", "Q3_k_m", "Q3_k_s", "Q4_k_m", "Q4_k_s", "Q5_k_m")),
    *(f"{_DARK}-{q}.gguf" for q in ("Q5_k_s", "Q6_k", "Q8_0")),
]
UNSLOTH = [
    "BF16/Model-BF16-00001-of-00002.gguf",
    "BF16/Model-BF16-00002-of-00002.gguf",
    "Model-IQ4_NL.gguf",
    "Model-Q4_0.gguf",
    "Model-Q4_K_M.gguf",
    "Model-Q8_0.gguf",
    "Model-UD-Q4_K_XL.gguf",
    "Model-UD-Q4_K_M.gguf",
    "imatrix_unsloth.gguf",
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
]


@pytest.mark.parametrize(
    ("names", "quant", "file"),
    [
        (DARK, "Q4_K_M", f"{_DARK}-Q4_k_m.gguf"),
        (DARK, "q4_k_s", f"{_DARK}-Q4_k_s.gguf"),
        (DARK, "IQ4_XS", f"{_DARK}-IQ4_XS.gguf"),
        (DARK, "Q2_K", f"{_DARK}-Q2_k.gguf"),
        (DARK, "Q6_K", f"{_DARK}-Q6_k.gguf"),
        (DARK, "D_AU-Q8_0", f"{_DARK}-Q8_0.gguf"),
        (DARK, "d-au-q8.0", f"{_DARK}-Q8_0.gguf"),
        (UNSLOTH, "Q4_K_M", "Model-Q4_K_M.gguf"),
        (UNSLOTH, "UD-Q4_K_M", "Model-UD-Q4_K_M.gguf"),
        (UNSLOTH, "ud-q4_k_xl", "Model-UD-Q4_K_XL.gguf"),
        (UNSLOTH, "Q4_K_XL", "Model-UD-Q4_K_XL.gguf"),
        (UNSLOTH, "Q4_0", "Model-Q4_0.gguf"),
        (["m.Q4_K_M.gguf", "m.Q4_K.gguf"], "Q4_K", "m.Q4_K.gguf"),
        (["m_q5_k_m.gguf", "m_q5_0.gguf"], "Q5_0", "m_q5_0.gguf"),
        (["m-q4-k-m.gguf"], "Q4_K_M", "m-q4-k-m.gguf"),
        (["m-Q4_0.gguf", "m-Q4_0_4_8.gguf"], "Q4_0", "m-Q4_0.gguf"),
        (["m-fp16.gguf", "m-bf16.gguf"], "F16", "m-fp16.gguf"),
        (["m-MXFP4.gguf", "m-MXFP4_MOE.gguf"], "mxfp4", "m-MXFP4.gguf"),
        (["m-f16.Q8_0.gguf", "m-f16.gguf"], "F16", "m-f16.gguf"),
        (["IQ1_M/model.gguf", "IQ4_XS/model.gguf"], "IQ4_XS", "IQ4_XS/model.gguf"),
        (["m-Q4_K_M-imatrix.gguf", "imatrix.gguf"], "Q4_K_M", "m-Q4_K_M-imatrix.gguf"),
        (["m-fancy.gguf", "m-plain.gguf"], "fancy", "m-fancy.gguf"),
        (["m-Q6_K-imat.gguf", "m-Q6_K.gguf"], "Q6_K", "m-Q6_K.gguf"),
        (["m-Q6_K-imat.gguf", "m-Q6_K.gguf"], "q6_k-imat", "m-Q6_K-imat.gguf"),
        (["m-i1-Q6_K.gguf", "m-Q6_K-v2.gguf"], "i1-Q6_K", "m-i1-Q6_K.gguf"),
    ],
)
def test_quant_leads_to_its_file(names: list[str], quant: str, file: str) -> None:
    assert choose(names, quant=quant).files == (file,)


def test_all_parts_of_a_split_come_in_order() -> None:
    names = [f"Q4_K_M/model-0000{n}-of-00003.gguf" for n in (3, 1, 2)] + ["Q8_0/model-00001-of-00001.gguf"]
    assert choose(names, quant="q4_k_m").files == tuple(f"Q4_K_M/model-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    assert choose(names, file="Q4_K_M/model-00002-of-00003.gguf").n_parts == 3
    assert choose(UNSLOTH, quant="bf16").files == tuple(UNSLOTH[:2])


@pytest.mark.parametrize("quant", ["Q4_K", "K_M", "Q4", "Q7_K", "AU", "XX-Q8_0", "mmproj", "", "-"])
def test_the_error_of_an_unknown_quant_lists_the_quants(quant: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        choose([*DARK[:-1], "mmproj-f16.gguf", "x-Q8_0-00001-of-00002.gguf"], quant=quant or "?")
    assert "Q4_k_m.gguf" in caught.value.message


def test_two_models_with_one_quant_are_ambiguous() -> None:
    names = ["small-Q4_K_M.gguf", "large-Q4_K_M.gguf"]
    with pytest.raises(ModelNotFound, match=r"several models.*large-Q4_K_M.gguf, small-Q4_K_M.gguf"):
        choose(names, quant="Q4_K_M")
    assert choose(names, quant="small-Q4_K_M").files == ("small-Q4_K_M.gguf",)


def test_missing_parts_are_named() -> None:
    with pytest.raises(ModelNotFound, match="1 of the 2 parts"):
        choose(["m-Q8_0-00001-of-00002.gguf"], quant="Q8_0")


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (DARK, f"{_DARK}-Q4_k_m.gguf"),
        (UNSLOTH, "Model-Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q5_K_M.gguf", "m-Q2_K.gguf"], "m-Q5_K_M.gguf"),
        (["odd.gguf", "mmproj-odd.gguf"], "odd.gguf"),
        (["m-draft-Q4_K_M.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        (["DRAFT-0.5B-Q4_0.gguf", "mmproj.gguf"], "DRAFT-0.5B-Q4_0.gguf"),
        (["m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
    ],
)
def test_without_a_quant_the_preferred_one_is_taken(names: list[str], file: str) -> None:
    assert choose(names).files == (file,)


def test_plan_picks_among_whole_models_by_their_size() -> None:
    sizes = {"m-Q4_K_M.gguf": 4, "m-Q8_0.gguf": 8, "m-BF16-00001-of-00002.gguf": 16, "mmproj-F16.gguf": 1}

    def largest(models: Sequence[ModelFiles]) -> ModelFiles | None:
        return max(models, key=lambda model: model.size_bytes)

    assert choose(sizes, prefer=largest).files == ("m-Q8_0.gguf",)
    assert choose(sizes, prefer=largest).size_bytes == 8
    assert choose(sizes, prefer=lambda _models: None).files == ("m-Q4_K_M.gguf",)
    assert choose(sizes, quant="Q4_K_M", prefer=largest).files == ("m-Q4_K_M.gguf",)


@pytest.mark.parametrize(
    ("kind", "names", "quant", "file"),
    [
        ("mmproj", UNSLOTH, None, "mmproj-F16.gguf"),
        ("mmproj", UNSLOTH, "bf16", "mmproj-BF16.gguf"),
        ("draft", ["m-Q8_0.gguf", "m-draft-Q4_0.gguf"], None, "m-draft-Q4_0.gguf"),
        ("draft", ["tiny-Q8_0.gguf", "tiny-Q4_0.gguf"], "q8_0", "tiny-Q8_0.gguf"),
    ],
)
def test_projector_and_draft_are_chosen_by_the_same_rules(
    kind: Kind, names: list[str], quant: str | None, file: str
) -> None:
    assert choose(names, kind=kind, quant=quant).files == (file,)


def test_the_error_of_a_missing_projector_lists_the_files() -> None:
    with pytest.raises(ModelNotFound, match=r"\(mmproj\)\. It has: m-Q8_0\.gguf"):
        choose(["m-Q8_0.gguf"], kind="mmproj")


def test_two_unknown_models_are_listed() -> None:
    with pytest.raises(ModelNotFound, match=r"several models.*a.gguf, b.gguf"):
        choose(["a.gguf", "b.gguf"])


def test_a_repository_without_gguf_files_is_an_error() -> None:
    with pytest.raises(ModelNotFound, match=r"no \.gguf file"):
        choose(["model.safetensors", "README.md"], quant="Q4_K_M")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("mmproj-F16.gguf", "mmproj-F16.gguf"),
        ("MODEL-q8_0.GGUF", "Model-Q8_0.gguf"),
        ("*iq4_nl.gguf", "Model-IQ4_NL.gguf"),
        ("Model-BF16-00001-of-00002.gguf", "BF16/Model-BF16-00001-of-00002.gguf"),
    ],
)
def test_file_is_found_by_name(file: str, expected: str) -> None:
    assert choose(UNSLOTH, file=file).files[0] == expected


def test_exact_spelling_wins_over_any_case() -> None:
    assert choose(["a-Q8_0.gguf", "A-Q8_0.gguf"], file="A-Q8_0.gguf").files == ("A-Q8_0.gguf",)


def test_pattern_that_fits_two_is_ambiguous() -> None:
    with pytest.raises(ModelNotFound, match="several models"):
        choose(UNSLOTH, file="Model-*.gguf")


def test_helpers_of_a_model_are_known() -> None:
    kinds = {model.files[0]: model.kind for model in group([*UNSLOTH, "imatrix.gguf", "x-draft.gguf"])}
    assert kinds["mmproj-F16.gguf"] == "mmproj"
    assert kinds["imatrix.gguf"] == kinds["imatrix_unsloth.gguf"] == "imatrix"
    assert kinds["x-draft.gguf"] == "draft"
    assert kinds["Model-Q8_0.gguf"] == "model"


HEADS = [
    "X-27B-UD-Q4_K_XL.gguf",
    "X-27B-Q8_0.gguf",
    "mmproj-BF16.gguf",
    "MTP/X-27B-MTP-Q8_0.gguf",
    "MTP/X-27B-MTP-BF16.gguf",
    "mtp-X-27B-Q4_K_M.gguf",
]


def test_the_head_of_a_model_is_never_taken_for_the_model() -> None:
    assert choose(HEADS, quant="Q8_0").files == ("X-27B-Q8_0.gguf",)
    assert choose(HEADS).files == ("X-27B-UD-Q4_K_XL.gguf",)
    assert choose(HEADS, prefer=lambda models: models[-1]).files[0] in HEADS[:2]
    for quant in "BF16", "Q4_K_M":
        with pytest.raises(ModelNotFound, match=f"no model for the quant {quant}"):
            choose(HEADS, quant=quant)


def test_a_head_is_chosen_if_its_file_or_its_kind_is_requested() -> None:
    assert choose(HEADS, file="MTP/X-27B-MTP-Q8_0.gguf").files == ("MTP/X-27B-MTP-Q8_0.gguf",)
    assert choose(HEADS, kind="head", quant="Q8_0").files == ("MTP/X-27B-MTP-Q8_0.gguf",)
    assert choose(HEADS, kind="draft", quant="Q8_0").files == ("MTP/X-27B-MTP-Q8_0.gguf",)


def test_case_31_draft_heads_in_a_folder() -> None:
    names = read_case(31)["files"]
    assert choose(names, quant="Q8_0").files == ("X-27B-Q8_0.gguf",)
    assert "/" not in choose(names).files[0]
    assert choose(names, file="MTP/X-27B-MTP-BF16.gguf").files == ("MTP/X-27B-MTP-BF16.gguf",)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("abliterated-MTP-Q6_K.gguf", "model"),
        ("X-MTP-GGUF/X-MTP-Q6_K.gguf", "model"),
        ("MTP/X-Q8_0.gguf", "head"),
        ("mtp/X-Q8_0-00001-of-00002.gguf", "head"),
        ("mtp-heads/X-Q8_0.gguf", "head"),
        ("eagle3/X-Q8_0.gguf", "head"),
        ("mtp-X-Q8_0.gguf", "head"),
        ("MTP_Q8_0.gguf", "head"),
        ("draft/X-Q8_0.gguf", "draft"),
        ("Eagle-7B-Q8_0.gguf", "model"),
    ],
)
def test_a_folder_or_the_first_word_tells_a_head(name: str, kind: Kind) -> None:
    assert [model.kind for model in group([name])] == [kind]


def test_of_two_files_that_differ_in_mtp_the_small_one_is_the_head() -> None:
    heads = {"X-Q8_0.gguf": 30, "X-MTP-Q8_0.gguf": 2, "X-MTP-BF16.gguf": 4}
    assert {model.files[0]: model.kind for model in group(heads)} == {
        "X-Q8_0.gguf": "model",
        "X-MTP-Q8_0.gguf": "head",
        "X-MTP-BF16.gguf": "head",
    }
    assert choose(heads, quant="Q8_0").files == ("X-Q8_0.gguf",)
    assert choose(["X-Q8_0.gguf", "X-MTP-Q8_0.gguf"], quant="Q8_0").files == ("X-Q8_0.gguf",)
    assert choose(["X-Q4_0-mtp.gguf", "X-Q4_0.gguf"]).files == ("X-Q4_0.gguf",)


def test_a_model_that_holds_a_head_comes_after_the_one_that_does_not() -> None:
    models = {"X-Q8_0.gguf": 30, "X-MTP-Q8_0.gguf": 31, "X-MTP-Q4_K_M.gguf": 16}
    assert choose(models, quant="Q8_0").files == ("X-Q8_0.gguf",)
    assert choose(models, quant="MTP-Q8_0").files == ("X-MTP-Q8_0.gguf",)
    assert choose(models, quant="Q4_K_M").files == ("X-MTP-Q4_K_M.gguf",)
    assert choose(models, prefer=by_labels(lambda sizes: ["Q8_0"])).files == ("X-Q8_0.gguf",)


def test_a_repository_of_nothing_but_heads_is_there_for_them() -> None:
    assert choose(["MTP/X-MTP-Q8_0.gguf"]).files == ("MTP/X-MTP-Q8_0.gguf",)
    assert choose(["abliterated-MTP-Q6_K.gguf", "abliterated-MTP-Q4_0.gguf"]).files == ("abliterated-MTP-Q4_0.gguf",)


PIECES = {"X.Q4_K_M.gguf": 40, "X.Q8_0.gguf.part2of2": 30, "X.Q8_0.gguf.part1of2": 50}


def test_byte_pieces_are_one_model_of_their_joined_name() -> None:
    model = choose(PIECES, quant="Q8_0")
    assert model.files == ("X.Q8_0.gguf.part1of2", "X.Q8_0.gguf.part2of2")
    assert (model.joined, model.size_bytes) == ("X.Q8_0.gguf", 80)
    assert choose(PIECES, file="x.q8_0.gguf") == choose(PIECES, file="X.Q8_0.gguf.part2of2") == model
    assert choose(PIECES).files == ("X.Q4_K_M.gguf",)
    many = [f"X.Q8_0.gguf.part{number}of12" for number in range(1, 13)]
    assert choose(many, quant="Q8_0").files == tuple(many)


def test_case_32_byte_pieces() -> None:
    model = choose(read_case(32)["files"], quant="Q8_0")
    assert model.files == ("X-72B.Q8_0.gguf.part1of2", "X-72B.Q8_0.gguf.part2of2")
    assert model.joined == "X-72B.Q8_0.gguf"


def test_a_missing_piece_is_named() -> None:
    with pytest.raises(ModelNotFound, match=r"1 of the 2 parts of X\.Q8_0"):
        choose(["X.Q8_0.gguf.part1of2"], quant="Q8_0")


def test_where_the_joined_file_is_there_too_it_is_the_model() -> None:
    assert choose([*PIECES, "X.Q8_0.gguf"], quant="Q8_0").files == ("X.Q8_0.gguf",)


@pytest.mark.parametrize(
    "name", ["X.gguf.part3of2", "X.gguf.part0of2", "X.gguf.partAof2", "part1of2", "X.bin.part1of1"]
)
def test_what_is_no_piece_is_not_taken_for_one(name: str) -> None:
    assert group([name]) == []
