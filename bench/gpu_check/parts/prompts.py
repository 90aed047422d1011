"""Do the published prompts of the embedded model get their published answers?"""

from __future__ import annotations

from bench.gpu_check.job import Job, Served
from bench.gpu_check.outcome import Outcome
from worker_gguf.embedded import MODEL_PATH, Prompt, published_prompts
from worker_gguf.gguf import read_header
from worker_gguf.template.chat_template import ChatTemplate

__all__ = ["measure"]

_BOS, _EOS = "<|begin_of_text|>", "<|eot_id|>"
_SHOWN = 3


def measure(job: Job, outcome: Outcome) -> None:
    """Ask for each answer alone: among others the last bits of the logits differ, and a near tie may fall otherwise."""
    source = read_header(MODEL_PATH).chat_template
    assert source is not None, "the embedded model has a template"
    template = ChatTemplate(source, bos_token=_BOS, eos_token=_EOS)
    prompts = published_prompts()
    with job.worker(MODEL="embedded") as worker:
        wrong = [prompt.name for prompt in prompts if _answer(worker, prompt, template) != prompt.expected]
    right = len(prompts) - len(wrong)
    outcome.add({"prompts_right": right, "prompts_all": len(prompts)})
    names = f"; wrong are {', '.join(wrong[:_SHOWN])}{' and others' if len(wrong) > _SHOWN else ''}" if wrong else ""
    outcome.check("published prompts", not wrong, f"{right} of {len(prompts)} answers are the published ones{names}")


def _answer(worker: Served, prompt: Prompt, template: ChatTemplate) -> str:
    body: dict[str, object] = {"temperature": 0, "max_tokens": prompt.max_tokens}
    if prompt.tools:
        # Tools are not honoured over the API yet, so the text of the template is the prompt of a completion.
        text = template.prompt(prompt.messages, tools=prompt.tools).removeprefix(_BOS)
        answer = worker.ask("/v1/completions", {**body, "prompt": text})
        return str(answer["choices"][0]["text"])
    answer = worker.ask("/v1/chat/completions", {**body, "messages": list(prompt.messages)})
    return str(answer["choices"][0]["message"]["content"])
