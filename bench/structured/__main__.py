"""Measures structured output and tool calls, part by part, with the bound of each figure; a peer beside it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import models
from bench.serving.findings import Findings
from bench.serving.servers import Setup, add_arguments
from bench.structured import answers, calls, compiling, schema, tools
from worker_gguf.embedded import MODEL_PATH

RESULTS = Path(__file__).parents[1] / "results"
SHARED = Path(__file__).parents[3] / "shared"
NAMES = ("schema", "tools", "compiling", "answers", "calls")


def measure(part: str, setup: Setup, args: argparse.Namespace) -> None:
    if part == "answers":
        answers.measure(setup, MODEL_PATH, answers.Sizes(answers=args.answers))
        return
    if part == "calls":
        calls.measure(setup.findings)
        return
    model = models.ensure(models.SHAPES[args.model], args.cache)
    match part:
        case "schema":
            schema.measure(setup, model)
        case "tools":
            tools.measure(setup, model)
        case "compiling":
            compiling.measure(setup, model, args.shared)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.structured", description=__doc__)
    # No `choices`: argparse would check the empty default against them.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(NAMES)}; default: all")
    add_arguments(parser)
    parser.add_argument("--answers", type=int, default=answers.Sizes().answers, help="of the part answers")
    parser.add_argument("--model", default="small", choices=models.SHAPES)
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder of published schemas, for compiling")
    parser.add_argument("--name", default="structured", help="of the files in --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    args = parser.parse_args(given)
    if unknown := set(args.parts) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. The parts are {', '.join(NAMES)}.")
    args.parts = args.parts or list(NAMES)
    if "compiling" in args.parts and not args.shared.is_dir():
        parser.error(f"{args.shared} does not exist: set --shared to the folder of published schemas")
    return args


def main(given: Sequence[str] | None = None) -> int:
    """Return 1 if a figure misses its bound."""
    args = arguments(given)
    settings = {name: getattr(args, name) for name in ("parts", "rounds", "answers", "model", "worker_env")}
    findings = Findings(settings | {"peer": args.peer_name if args.peer_command else None})
    setup = Setup.of(args, findings)
    for part in args.parts:
        print(part, file=sys.stderr, flush=True)
        setup.note_other_load()
        measure(part, setup, args)
    print(findings.save(args.results, args.name))
    return 1 if findings.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
