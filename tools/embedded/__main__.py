"""The command line: each step of making the embedded model, or all of them in order."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tools.embedded.network import Network

# Only the libraries of the chosen step are imported, so `publish` runs without torch.

PACKAGE = Path("src/worker_gguf/embedded")
STEPS = ("train", "polish", "export", "publish", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded", description=__doc__)
    parser.add_argument("step", nargs="?", choices=(*STEPS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3200, help="training steps")
    parser.add_argument("--polish-steps", type=int, nargs="*", default=[1000], help="steps of each later pass")
    parser.add_argument("--polish-from", type=int, default=0, help="the first of those passes to run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/embedded"))
    parser.add_argument("--package", type=Path, default=PACKAGE, help="where the model goes")
    parser.add_argument("--no-compile", action="store_true", help="train without a C++ compiler")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for step in STEPS if options.step == "all" else (options.step,):
        RUN[step](options)


def train(options: argparse.Namespace) -> None:
    # Threads that spin while they wait make a shared machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from tools.embedded import corpus, training, vocabulary
    from tools.embedded.network import Shape

    sample = corpus.training(options.seed, 20_000)
    tokenizer = vocabulary.train(vocabulary.texts(sample))
    tokenizer.save(str(options.work / "tokenizer.json"))
    schedule = training.Schedule(
        seed=options.seed,
        n_steps=options.steps,
        n_threads=options.threads,
        compile=not options.no_compile,
    )
    network = training.first_network(options.seed, Shape())
    training.train(network, tokenizer, schedule, options.work / "network.pt")


def polish(options: argparse.Namespace) -> None:
    """Go over new data again, from a lower learning rate: surer answers, wider margins."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from tools.embedded import training, vocabulary

    tokenizer = vocabulary.load(options.work / "tokenizer.json")
    for number, n_steps in enumerate(options.polish_steps[options.polish_from :], start=options.polish_from + 1):
        schedule = training.Schedule(
            seed=options.seed + number,
            n_steps=n_steps,
            learning_rate=1.5e-3,
            warmup=30,
            n_threads=options.threads,
            compile=not options.no_compile,
        )
        training.train(_trained(options), tokenizer, schedule, options.work / "network.pt")


def _trained(options: argparse.Namespace) -> Network:
    import torch

    from tools.embedded.network import Network, Shape

    network = Network(Shape())
    network.load_state_dict(torch.load(options.work / "network.pt", weights_only=True))
    return network


def export(options: argparse.Namespace) -> None:
    from tools.embedded import gguf_file, vocabulary

    tokenizer = vocabulary.load(options.work / "tokenizer.json")
    path = options.package / "model.gguf"
    gguf_file.write(_trained(options), tokenizer, path)
    print(f"{path}: {path.stat().st_size} bytes")


def publish(options: argparse.Namespace) -> None:
    from tools.embedded import publishing

    publishing.publish(options.package / "model.gguf", options.package / "prompts.json")


def evaluate(options: argparse.Namespace) -> None:
    from tools.embedded import evaluation

    evaluation.report(options.package, options.work / "report.md", options.seed)


RUN = {"train": train, "polish": polish, "export": export, "publish": publish, "evaluate": evaluate}

if __name__ == "__main__":
    main()
