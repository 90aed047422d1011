"""A service whose model writes known answers, a character for each token, over a real engine without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from tests.fakes import EOG, FakeRunner, limits
from tests.scripted_parser import ScriptedParser
from tests.threaded_link import Numerals, engine_of
from worker_gguf.engine.image_runs import IMAGE, ImageRun, row_ids
from worker_gguf.engine.request import Constraint, GenerationRequest, Thinking
from worker_gguf.markup.call_format import CallFormat
from worker_gguf.markup.parts import ContentParser, PartsParser
from worker_gguf.markup.tool import Tool, ToolUse
from worker_gguf.protocol.calls import Defaults
from worker_gguf.protocol.models import AdapterCard, ModelCard
from worker_gguf.service.conversations import Conversations
from worker_gguf.service.images import ImageLoader
from worker_gguf.service.markups import Markups, NewMarkup
from worker_gguf.service.service import Service
from worker_gguf.template.chat_template import ChatTemplates

__all__ = ["TEMPLATE", "Letters", "ScriptedMarkup", "scripted_service"]

# A model of this template thinks between `~` and `~`, unless it is told not to, and calls with `!name(arguments)`.
TEMPLATE = """\
{%- if tools %}T{{ tools | map(attribute='function.name') | join(',') }}.{% endif -%}
{%- for m in messages %}<{{ m.role }}>{{ m.content or '' }}
{%- for c in m.tool_calls or [] %}!{{ c.function.name }}({{ c.function.arguments }}){% endfor %}{% endfor -%}
{%- if add_generation_prompt %}<assistant>{% if enable_thinking is false %}~~{% endif %}{% endif -%}"""
SHIFT = 10
MARK = 5
CONTROLS = {"[CALL]": MARK, "[THINK]": 6}
THINKING = Thinking("~", ("~",))


class Letters:
    """A vocabulary with a token for each character, and two control tokens, `[CALL]` and `[THINK]`."""

    n_tokens = 0x11000
    adds_bos = False
    adds_eos = False
    adds_separator = False
    bos: int | None = None
    eos: int | None = None
    separator: int | None = None

    def fim_token(self, kind: str) -> int | None:
        return None

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if parse_special and text in CONTROLS:
            return [CONTROLS[text]]
        return [SHIFT + ord(letter) for letter in text]

    def piece(self, token: int) -> bytes:
        return chr(token - SHIFT).encode() if token >= SHIFT else b""

    def control_piece(self, token: int) -> bytes:
        return self.piece(token) or next((text.encode() for text, known in CONTROLS.items() if known == token), b"")

    def text(self, tokens: Iterable[int]) -> str:
        return "".join(chr(token - SHIFT) for token in tokens)


class ScriptedMarkup:
    """The markup of TEMPLATE. It keeps what it is asked for."""

    def __init__(self, call_format: CallFormat | None = None, thinking: Thinking | None = THINKING) -> None:
        self.format = call_format or CallFormat(syntax="json", call_start="!", other_starts=("[CALL]",))
        self.markers: tuple[str, ...] = ("[CALL]", "!")
        self.tools: Sequence[Tool] = ()
        self.uses: list[ToolUse] = []
        self.prompts: list[str] = []
        self._thinking = thinking

    def __call__(self, source: str, render: Callable[..., str], has_token: Callable[[str], bool]) -> ScriptedMarkup:
        assert "a" in render([{"role": "user", "content": "a"}])
        return self

    def parser(
        self, prompt: str, tools: Sequence[Tool] = (), *, splits_reasoning: bool = True, holds_calls: bool = False
    ) -> PartsParser:
        self.tools = tools
        self.prompts.append(prompt)
        return ScriptedParser() if splits_reasoning else ContentParser()

    def thinking(self, prompt: str) -> Thinking | None:
        return self._thinking

    def call_constraint(self, use: ToolUse, token_of: Callable[[str], int | None]) -> Constraint:
        self.uses.append(use)
        names = "|".join(tool.name for tool in use.tools)
        triggers = () if use.is_required else ("!",)
        return Constraint("lark", f"start: call\ncall: /{names}/ <[{token_of('[CALL]')}]>\n", triggers)


class _Keeping(FakeRunner):
    """Keeps the requests that it opened."""

    def __init__(self, answer: str, n_adapters: int) -> None:
        super().__init__(limits(n_ctx=100_000, n_cells=200_000, n_batch=50_000, n_adapters=n_adapters), self._next)
        self.requests: dict[str, GenerationRequest] = {}
        self._answer = answer
        self.preparing = self._see

    def _next(self, history: Sequence[int]) -> int:
        history = history[len(self.adapters) :]  # the fake writes a mark of each adapter before it
        n_written = len(history) - len(self._prompt_of(history))
        return SHIFT + ord(self._answer[n_written]) if n_written < len(self._answer) else EOG

    def _prompt_of(self, history: Sequence[int]) -> tuple[int, ...]:
        for request in self.open.values():
            self.requests.setdefault(request.id, request)
        for request in self.open.values():
            if tuple(history[: len(request.prompt)]) == request.prompt:
                return request.prompt
        raise AssertionError("no open request has this prompt")

    def _see(self, request: GenerationRequest) -> GenerationRequest:
        """Put two rows in the place of each image, as an encoder does."""
        if request.images:
            self.requests[request.id] = request
        tokens: list[int] = []
        runs: list[ImageRun] = []
        for token in request.prompt:
            if token == IMAGE:
                runs.append(ImageRun(len(tokens), 2))
                tokens += row_ids(len(runs), 2)
            else:
                tokens.append(token)
        return replace(request, prompt=tuple(tokens), images=(), runs=tuple(runs))


@contextmanager
def scripted_service(
    answer: str,
    new_markup: NewMarkup | None = None,
    *,
    strict: bool = False,
    template: str = TEMPLATE,
    adapters: tuple[AdapterCard, ...] = (),
    images: ImageLoader | None = None,
    sees: bool = False,
) -> Iterator[tuple[Service, dict[str, GenerationRequest]]]:
    """Yield a service that always answers so, and the requests that reach its engine, by their ids."""
    letters, runner = Letters(), _Keeping(answer, len(adapters))
    engine = engine_of(runner, Numerals(letters.piece))
    engine.start()
    try:
        yield (
            Service(
                engine,
                letters,
                Conversations(ChatTemplates.compile(template), Markups(letters, new_markup or ScriptedMarkup())),
                ModelCard("m", 1, capabilities=("completion", *(("vision",) if sees else ())), adapters=adapters),
                defaults=Defaults(strict=strict),
                fingerprint="fp",
                images=images,
            ),
            runner.requests,
        )
    finally:
        engine.stop()
