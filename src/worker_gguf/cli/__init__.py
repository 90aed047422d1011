"""The command `worker-gguf`, with one file for each subcommand. Each subcommand imports the large modules it needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from worker_gguf import __version__

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

READER_LEFT = 141
"""The exit code if the reader of the output ends first, as in `worker-gguf inspect | head -2`: 128 + SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code. Flags have priority over environment variables."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in ([], ["serve"]):
        return _serve()  # the command of an image, which does not need the import of a parser
    if words[:1] in (["deploy"], ["destroy"]):
        from worker_gguf.cli import deploy  # these two have their own parser

        return deploy.main(words)
    arguments = _parser().parse_args(words)
    if arguments.command in (None, "serve"):
        return _serve(arguments.model, arguments.mode, arguments.host, arguments.port)
    try:
        code = _run(arguments)
        sys.stdout.flush()  # flush here, because an error at the exit of the interpreter cannot be caught
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard the output that is still buffered
        return READER_LEFT


def _run(arguments: argparse.Namespace) -> int:
    """Run any subcommand of `_parser` except `serve`."""
    if arguments.command == "inspect":
        from worker_gguf.cli.inspect import inspect

        return inspect(arguments)
    if arguments.command == "fetch":
        from worker_gguf.cli.fetch import fetch

        return fetch(arguments)
    if arguments.command == "batch":
        from worker_gguf.cli.batch import batch

        return batch(arguments)
    if arguments.command == "ping":
        from worker_gguf.cli.ping import ping

        return ping()
    from worker_gguf.cli.bench import bench

    return bench(arguments)


def _serve(model: str | None = None, mode: str | None = None, host: str | None = None, port: int | None = None) -> int:
    from worker_gguf.link.spawn import spawn

    process = spawn()  # first, because it has the longest way to go
    from worker_gguf import environment, interpreter
    from worker_gguf.observe import log
    from worker_gguf.observe.timeline import Timeline
    from worker_gguf.start import head_start

    interpreter.for_the_start()
    log.hold()  # until the settings say what is logged, and how
    # Pydantic would search every installed package for plugins of its own, for 10 ms and more.
    environment.set_default("PYDANTIC_DISABLE_PLUGINS", "__all__")
    prefetch = head_start.begin(model, in_child=True)  # before the slow imports of the settings
    timeline = Timeline.of_process()
    begun = head_start.HeadStart(prefetch, process).with_look(timeline)
    try:
        with timeline.phase("settings"):
            from worker_gguf.cli.serve import serve
        return serve(model=model, mode=mode, host=host, port=port, timeline=timeline, head_start=begun)
    finally:
        begun.settle()


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser("worker-gguf", description="Serve a GGUF model over HTTP or the RunPod queue.")
    parser.add_argument("--version", action="version", version=f"worker-gguf {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serving = commands.add_parser("serve", help="serve a model until Ctrl-C or SIGTERM (the default)")
    for target in (parser, serving):
        target.add_argument("--model", help="embedded, a path, or org/repo:QUANT; default: MODEL")
        target.add_argument("--mode", choices=("auto", "queue", "http"), help="default: MODE")
        target.add_argument("--host", help="default: HOST")
        target.add_argument("--port", type=int, help="default: PORT")
    from worker_gguf.cli import batch, bench, fetch, inspect  # these modules import no large modules

    batch.add_arguments(commands.add_parser("batch", help="answer a file of requests, in OpenAI's batch format"))
    inspect.add_arguments(
        commands.add_parser("inspect", help="print a model's memory plan, for this machine or another")
    )
    fetch.add_arguments(commands.add_parser("fetch", help="download a model to this machine before a worker needs it"))
    bench.add_arguments(commands.add_parser("bench", help="measure a start of the worker and draw its phases"))
    commands.add_parser("ping", help="exit with 0 if the worker of this machine is ready, else with 1")
    commands.add_parser("deploy", help="create or update an endpoint on RunPod from deploy.yaml")
    commands.add_parser("destroy", help="remove the endpoint that deploy created")
    return parser


if __name__ == "__main__":
    sys.exit(main())
