"""Parses the bodies of POST /completion and POST /infill."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from worker_gguf.engine.request import LineLimits
from worker_gguf.protocol.bodies import MAX_INT32, Common
from worker_gguf.protocol.calls import Defaults, ExtraText, Options
from worker_gguf.protocol.llama_server.bodies import InfillBody, NativeCompletionBody
from worker_gguf.protocol.llama_server.calls import AnswerForm, NativeCompletion, NativeInfill
from worker_gguf.protocol.llama_server.prompts import read_prompts
from worker_gguf.protocol.llama_server.rendering import render
from worker_gguf.protocol.names import Names
from worker_gguf.protocol.parameters import COMPLETION_REFUSED
from worker_gguf.protocol.parse import agreed_logprobs, check_sequences, read_options
from worker_gguf.protocol.route import Generation
from worker_gguf.protocol.screening import refuse, renamed
from worker_gguf.protocol.validation import invalid, validated
from worker_gguf.protocol.wellformed import read_object

__all__ = ["COMPLETION", "INFILL", "REFUSED", "parse_completion", "parse_infill"]

# llama-server has a field for the time of a prompt, but no code for it.
_NOT_REFUSED: Final = frozenset({"custom_token_bans", "n_indent", "t_max_predict_ms", "t_max_prompt_ms"})
_OF_A_GAP: Final = frozenset({"input_prefix", "input_suffix", "input_extra"})
REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    **{name: neutral for name, neutral in COMPLETION_REFUSED.items() if name not in _NOT_REFUSED},
    "echo": (False,),
    "suffix": ("",),
}
_INFILL_REFUSED: Final = {name: neutral for name, neutral in REFUSED.items() if name not in _OF_A_GAP}
# The refusal of a model that cannot fill gaps names the field of a completion.
_NAMES_OF_A_GAP: Final = Names({"suffix": "input_suffix"})
_BANS = re.compile(r"\s*(?:[0-9]{1,10}\s*(?:,\s*[0-9]{1,10}\s*)*)?")


def parse_completion(body: object, defaults: Defaults) -> NativeCompletion:
    """Parse the body of POST /completion. Raises InvalidRequest."""
    fields, sent = _fields(body, REFUSED)
    completion = validated(NativeCompletionBody, fields, sent)
    prompts = read_prompts(completion.prompt)
    check_sequences(len(prompts), completion.n)
    form = _form(completion)
    return NativeCompletion(
        options=_options(completion, fields, REFUSED, sent, defaults),
        prompts=prompts,
        echo=False,
        shows_prompt=_shows_prompt(form),
        form=form,
    )


def parse_infill(body: object, defaults: Defaults) -> NativeInfill:
    """Parse the body of POST /infill. Raises InvalidRequest."""
    fields, sent = _fields(body, _INFILL_REFUSED)
    infill = validated(InfillBody, fields, sent)
    form = _form(infill)
    return NativeInfill(
        options=replace(_options(infill, fields, _INFILL_REFUSED, sent, defaults), names=_NAMES_OF_A_GAP),
        prefix=infill.input_prefix,
        suffix=infill.input_suffix,
        begun=infill.prompt or "",
        extra=tuple(
            ExtraText(extra.text) if extra.filename is None else ExtraText(extra.text, extra.filename)
            for extra in infill.input_extra or ()
        ),
        fits_context=True,
        suffix_first=defaults.spm_infill,
        shows_prompt=_shows_prompt(form),
        form=form,
    )


def _fields(body: object, refused: Mapping[str, tuple[object, ...]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of a body under the names of this package, and the aliases that were sent."""
    fields, sent = renamed(read_object(body))
    refuse(fields, refused, sent)
    return _with_bans(fields), sent


def _options(
    body: NativeCompletionBody | InfillBody,
    fields: Mapping[str, Any],
    refused: Mapping[str, object],
    sent: Mapping[str, str],
    defaults: Defaults,
) -> Options:
    assert isinstance(body, Common)
    top_logprobs = agreed_logprobs(body.logprobs, body.n_probs, "logprobs") or None
    options = read_options(body, top_logprobs, fields, refused, sent, defaults)
    return options if (lines := _lines(body)) is None else replace(options, lines=lines)


def _lines(body: NativeCompletionBody | InfillBody) -> LineLimits | None:
    max_ms = body.t_max_predict_ms or 0
    limits = LineLimits(body.n_indent or 0, max_ms / 1000 if max_ms > 0 else None)
    return None if limits == LineLimits() else limits


def _form(body: NativeCompletionBody | InfillBody) -> AnswerForm:
    fields = tuple(dict.fromkeys(body.response_fields or ()))
    return AnswerForm(bool(body.return_tokens), bool(body.timings_per_token), fields)


def _shows_prompt(form: AnswerForm) -> bool:
    """Whether the answer has the text of the prompt, which takes a while to write for a long one."""
    return not form.fields or "prompt" in form.fields


def _with_bans(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn custom_token_bans into biases. SillyTavern sends the same ids as biases, too."""
    bans, biases = _bans(fields.get("custom_token_bans")), fields.get("logit_bias")
    if not bans:
        return fields
    if isinstance(biases, dict):
        return fields | {"logit_bias": biases | {str(token): False for token in bans}}
    if biases is None or isinstance(biases, list):
        return fields | {"logit_bias": [*(biases or ()), *([token, False] for token in bans)]}
    return fields  # the validation names the wrong type


def _bans(value: object) -> list[int]:
    if isinstance(value, str):
        if not _BANS.fullmatch(value):
            raise invalid("custom_token_bans", "must be ids of tokens with commas between them")
        bans = [int(token) for token in value.split(",")] if value.strip() else []
    else:
        bans = [token for token in value if type(token) is int] if isinstance(value, list) else []
    if any(not 0 <= token <= MAX_INT32 for token in bans):
        raise invalid("custom_token_bans", f"must have ids from 0 to {MAX_INT32}")
    return bans


COMPLETION: Final = Generation("cmpl", NativeCompletionBody, parse_completion, render)
INFILL: Final = Generation("infill", InfillBody, parse_infill, render)
