"""An image that arrives while other answers stream: what it does to the times between their tokens.

`image_tpot_ratio` is the 99th percentile of the times between two tokens of the streams while an image is encoded and
its rows are computed, over their 99th percentile before it came. No image is sent twice, so each is encoded.
"""

import base64
import secrets
import struct
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import projectors
from bench.load import percentile, run_loop
from bench.serving.long_prompt import Sizes as StreamSizes
from bench.serving.long_prompt import alone, watch
from bench.serving.servers import Server, Setup

# The shape of a usual projector, CLIP's base: some hundred milliseconds for an image on two cores.
_SIDE = 336
_SHAPE = {"n_embd": 768, "n_heads": 12, "n_ff": 3072, "n_layers": 12, "image_size": _SIDE, "patch_size": 28}


@dataclass(frozen=True, slots=True)
class Sizes:
    streams: StreamSizes = field(default_factory=lambda: StreamSizes(short_tokens=40, stream_tokens=2000))
    max_tokens: int = 8


def ensure(width: int, cache: Path) -> Path:
    """Return a projector for a model whose embeddings have this width. Writes it if it is not there."""
    path = cache / f"mmproj-random-{width}.gguf"
    if not path.exists():
        beside = path.with_suffix(".part")
        projectors.write(beside, projectors.Projector("mlp", width, **_SHAPE))  # type: ignore[arg-type]
        beside.rename(path)
    return path


def measure(setup: Setup, model: Path, projector: Path, sizes: Sizes = Sizes()) -> None:
    """The model's vocabulary is that of bench/words.py."""
    streams = sizes.streams
    n_ctx = streams.short_tokens + streams.stream_tokens + 8
    with ExitStack() as stack:
        seeing = {"MMPROJ": str(projector)}
        servers = [stack.enter_context(setup.worker(model, streams.streams + 1, n_ctx, seeing))]
        if setup.peer_command:
            options = f"--mmproj {projector}"
            servers.append(stack.enter_context(setup.peer(model, streams.streams + 1, n_ctx, options)))
        for server in servers:
            run_loop(alone(server, _request(server, sizes)))  # memory that a server touches for the first time
        for _, server in setup.in_turn(servers):
            alone_ms = run_loop(alone(server, _request(server, sizes)))
            seen = run_loop(watch(server, streams, _request(server, sizes)))
            name = f"{server.prefix}image"
            setup.findings.add(f"{name}_ttft_alone_ms", alone_ms)
            setup.findings.add(f"{name}_ttft_ms", seen.first_token_s * 1e3)
            setup.findings.add(f"{name}_gap_p99_before_ms", percentile(seen.before, 99))
            setup.findings.add(f"{name}_gap_p99_ms", percentile(seen.during, 99))
            setup.findings.add(f"{name}_gap_max_ms", max(seen.during))
            setup.findings.add(f"{name}_tpot_ratio", seen.ratio)


def _request(server: Server, sizes: Sizes) -> bytes:
    image = base64.b64encode(new_png(_SIDE)).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}]
    return server.request(messages, sizes.max_tokens, ignore_eos=True, temperature=0.8)


def new_png(side: int) -> bytes:
    """Return a square of noise."""
    lines = b"".join(b"\0" + secrets.token_bytes(3 * side) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
