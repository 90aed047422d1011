"""Measures what a running worker does for its users, part by part, with the bound of each figure; a peer beside it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import models
from bench.serving import long_prompt, lookup, restored, shared_prefix, soak
from bench.serving.findings import Findings
from bench.serving.servers import Setup, add_arguments
from tools.cache import MODELS

RESULTS = Path(__file__).parents[1] / "results"
NAMES = ("shared-prefix", "restored", "long-prompt", "lookup", "soak")
CHAT_MODEL = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"


def measure(part: str, setup: Setup, args: argparse.Namespace) -> None:
    if part == "soak":
        first = min(soak.Sizes().first, args.requests // 2)
        soak.measure(setup, sizes=soak.Sizes(requests=args.requests, first=first))
        return
    model = models.ensure(models.SHAPES[args.model], args.cache)
    match part:
        case "shared-prefix":
            shared_prefix.measure(setup, model)
        case "restored":
            restored.measure(setup, model)
        case "long-prompt":
            long_prompt.measure(setup, model)
        case "lookup":
            sizes = lookup.Sizes(quoting=2, others=6) if args.quick else lookup.Sizes()
            lookup.measure(setup, args.chat_model, model, sizes, args.peer_lookup)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    # No `choices`: argparse would check the empty default against them.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(NAMES)}; default: all but soak")
    add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="one round, fewer prompts")
    parser.add_argument("--requests", type=int, default=soak.Sizes().requests, help="of soak")
    parser.add_argument("--model", default="small", choices=models.SHAPES)
    parser.add_argument("--chat-model", type=Path, default=CHAT_MODEL, help="of lookup; default: SmolLM2-135M-Instruct")
    parser.add_argument(
        "--peer-lookup",
        default="",
        metavar="OPTIONS",
        help="that switch the peer's lookup on: --peer-lookup='--spec-type ...'",
    )
    parser.add_argument("--name", default="last", help="of the files in --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    args = parser.parse_args(given)
    if unknown := set(args.parts) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. The parts are {', '.join(NAMES)}.")
    if args.requests < 2:
        parser.error("--requests: at least 2, because memory is measured twice")
    args.parts = args.parts or [name for name in NAMES if name != "soak"]
    if "lookup" in args.parts and not args.chat_model.exists():
        parser.error(f"{args.chat_model} does not exist: `make models` fetches SmolLM2, or set --chat-model")
    args.rounds = 1 if args.quick else args.rounds
    return args


def main(given: Sequence[str] | None = None) -> int:
    """Return 1 if a figure misses its bound."""
    args = arguments(given)
    named = ("parts", "rounds", "requests", "model", "worker_env", "peer_lookup")
    settings = {name: getattr(args, name) for name in named} | {"chat_model": args.chat_model.name}
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
