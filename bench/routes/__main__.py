"""Measures the routes beside chat completions, part by part, with the bound of each figure; a peer beside it."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import minilm, models
from bench.routes import dialects, embed, image, lora
from bench.serving.findings import Findings
from bench.serving.servers import Setup, add_arguments
from tools.cache import MODELS

RESULTS = Path(__file__).parents[1] / "results"

Part = Callable[[Setup, argparse.Namespace], None]


def _dialects(setup: Setup, args: argparse.Namespace) -> None:
    dialects.measure(setup, models.ensure(models.SHAPES[args.model], args.cache))


def _embed(setup: Setup, args: argparse.Namespace) -> None:
    embed.measure(setup, embed.ensure(args.models / minilm.FOLDER, args.cache))


def _lora(setup: Setup, args: argparse.Namespace) -> None:
    lora.measure(setup, models.ensure(models.SHAPES[args.model], args.cache))


def _image(setup: Setup, args: argparse.Namespace) -> None:
    shape = models.SHAPES[args.model]
    image.measure(setup, models.ensure(shape, args.cache), image.ensure(shape.n_embd, args.cache))


PARTS: dict[str, Part] = {"dialects": _dialects, "embed": _embed, "lora": _lora, "image": _image}


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.routes", description=__doc__)
    # No `choices`: argparse would check the empty default against them.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    add_arguments(parser)
    parser.add_argument("--model", default="small", choices=models.SHAPES, help="of the parts but embed")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder of `make models`")
    parser.add_argument("--name", default="routes", help="of the files in --results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the figures")
    args = parser.parse_args(given)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. The parts are {', '.join(PARTS)}.")
    args.parts = args.parts or list(PARTS)
    return args


def main(given: Sequence[str] | None = None) -> int:
    """Return 1 if a figure misses its bound."""
    args = arguments(given)
    settings = {name: getattr(args, name) for name in ("parts", "rounds", "model", "worker_env")}
    findings = Findings(settings | {"peer": args.peer_name if args.peer_command else None})
    setup = Setup.of(args, findings)
    for part in args.parts:
        print(part, file=sys.stderr, flush=True)
        setup.note_other_load()
        PARTS[part](setup, args)
    print(findings.save(args.results, args.name))
    return 1 if findings.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
