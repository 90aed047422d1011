"""The command line: each step of making the embedded model, or all of them in order."""

import argparse
import os
from pathlib import Path

# Only the libraries of the chosen step are imported, so `publish` runs without torch.

PACKAGE = Path("src/worker_gguf/embedded")
STEPS = ("train", "export", "publish", "evaluate")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.embedded", description=__doc__)
    parser.add_argument("step", nargs="?", choices=(*STEPS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3200, help="training steps")
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
    training.train(tokenizer, schedule, Shape(), options.work / "network.pt")


def export(options: argparse.Namespace) -> None:
    import torch

    from tools.embedded import gguf_file, vocabulary
    from tools.embedded.network import Network, Shape

    network = Network(Shape())
    network.load_state_dict(torch.load(options.work / "network.pt", weights_only=True))
    tokenizer = vocabulary.load(options.work / "tokenizer.json")
    path = options.package / "model.gguf"
    gguf_file.write(network, tokenizer, path)
    print(f"{path}: {path.stat().st_size} bytes")


def publish(options: argparse.Namespace) -> None:
    from tools.embedded import publishing

    publishing.publish(options.package / "model.gguf", options.package / "prompts.json")


def evaluate(options: argparse.Namespace) -> None:
    from tools.embedded import evaluation

    evaluation.report(options.package, options.work / "report.md", options.seed)


RUN = {"train": train, "export": export, "publish": publish, "evaluate": evaluate}

if __name__ == "__main__":
    main()
