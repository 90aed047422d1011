"""The stand-in for RunPod, and the command as a user runs it, with a clock that advances when it is waited for."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deployment.description import PUBLISHED, Description
from tests.deployment.fake_runpod import KEY, FakeRunpod
from worker_gguf.cli.deploy import deploy, destroy, parser
from worker_gguf.deployment.channel import Clock

TOKEN = "hf_THETOKENTHATNOBODYMAYSEE"

MANIFEST = """\
name: tiny
mode: queue
image: ghcr.io/me/worker-gguf:0.1.0-cu118
model: me/tiny-GGUF:Q4_K_M
env:
  N_CTX: 4096
  HF_TOKEN: ${HF_TOKEN}
gpu:
  pools: [AMPERE_24, ADA_24]
volume:
  name: models
  size_gb: 30
  data_center: EU-RO-1
"""
BALANCED = MANIFEST.replace("mode: queue", "mode: load_balanced")


@dataclass
class Passing:
    """A clock that stands still but for the waits, which it keeps."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, self.sleep)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Command:
    """`worker-gguf deploy` and `destroy` on a file of their own, against the stand-in."""

    def __init__(self, folder: Path, url: str) -> None:
        self.file = folder / "deploy.yaml"
        self.time = Passing()
        self.ended: list[Ended] = []
        self._url = url

    def deploy(self, manifest: str = MANIFEST, *flags: str) -> Ended:
        self.file.write_text(manifest, "utf-8")
        return self._run(["deploy", str(self.file), "--api-url", self._url, *flags])

    def destroy(self, *flags: str, says: str | None = None) -> Ended:
        return self._run(["destroy", str(self.file), "--api-url", self._url, *flags], says)

    def _run(self, arguments: list[str], says: str | None = None) -> Ended:
        parsed = parser().parse_args(arguments)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if parsed.command == "deploy":
                code = deploy(parsed, clock=self.time.clock)
            else:
                code = destroy(parsed, clock=self.time.clock, ask=None if says is None else lambda _: says)
        self.ended.append(Ended(code, out.getvalue(), err.getvalue()))
        return self.ended[-1]


@pytest.fixture(scope="session")
def description() -> Description:
    if not PUBLISHED.is_file():
        pytest.skip("RunPod's API description (../shared/runpod) is not here")
    return Description()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def runpod(description: Description, keys: None) -> Iterator[FakeRunpod]:
    with FakeRunpod(description) as fake:
        yield fake
    assert fake.faults == [], "requests and answers are as RunPod describes them"


@pytest.fixture
def command(tmp_path: Path, runpod: FakeRunpod, caplog: pytest.LogCaptureFixture) -> Iterator[Command]:
    caplog.set_level("DEBUG")
    made = Command(tmp_path, runpod.url)
    yield made
    said = "".join(ended.out + ended.err for ended in made.ended) + caplog.text
    said += "".join(path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file())
    assert [secret for secret in (KEY, TOKEN) if secret in said] == [], "a secret was shown, logged or written"
