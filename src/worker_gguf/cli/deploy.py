"""`worker-gguf deploy` and `destroy` create, update and remove an endpoint on RunPod from one deploy.yaml."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker_gguf import environment
from worker_gguf.deployment.api import DEFAULT_URL, RunpodApi
from worker_gguf.deployment.apply import CONSEQUENCES, carry_out, remove
from worker_gguf.deployment.channel import Channel, Clock
from worker_gguf.deployment.existing import find
from worker_gguf.deployment.plan import describe, make_plan
from worker_gguf.deployment.reading import read_manifest, read_names
from worker_gguf.deployment.redactor import Redactor
from worker_gguf.deployment.wait import Wait, address_of, curl
from worker_gguf.errors import DeploymentError, ManifestError, WorkerError

__all__ = ["deploy", "destroy", "main", "parser"]

_WAIT_S = 1200.0
_API_KEY = "runpod_api_key"


def main(words: Sequence[str]) -> int:
    """Run `deploy ...` or `destroy ...` and return the exit code."""
    arguments = parser().parse_args(words)
    return deploy(arguments) if arguments.command == "deploy" else destroy(arguments)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser("worker-gguf")
    commands = result.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser("deploy", description="Create or update an endpoint on RunPod from one file.")
    destroy = commands.add_parser("destroy", description="Remove the endpoint that deploy created from the same file.")
    for command in (deploy, destroy):
        command.add_argument("file", nargs="?", default="deploy.yaml", metavar="FILE", help="default: deploy.yaml")
        command.add_argument(
            "--api-url", help=f"address of RunPod's API (default: RUNPOD_REST_URL, otherwise {DEFAULT_URL})"
        )
    deploy.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    deploy.add_argument("--image", help="image to use in place of the file's, for pipelines that build one")
    deploy.add_argument("--replace", action="store_true", help="allow deleting the endpoint and creating it again")
    deploy.add_argument("--no-wait", action="store_true", help="do not wait for the first answer")
    deploy.add_argument(
        "--wait-s", type=_duration, default=_WAIT_S, help=f"longest wait for the first answer (default: {_WAIT_S:g})"
    )
    destroy.add_argument("--volume", action="store_true", help="also delete the network volume with its models")
    destroy.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return result


def deploy(arguments: argparse.Namespace, *, clock: Clock | None = None) -> int:
    """Create or update the endpoint. Returns 0, 1 if RunPod did not carry it out, or 2 if the file is wrong."""
    return _run(lambda output: _deploy(arguments, clock or Clock(), output))


def destroy(
    arguments: argparse.Namespace, *, clock: Clock | None = None, ask: Callable[[str], str] | None = None
) -> int:
    """Remove the endpoint. Returns the same codes as `deploy`, and 1 without a confirmation.

    `ask` replaces the prompt on the terminal.
    """
    return _run(lambda output: _destroy(arguments, clock or Clock(), output, ask))


class _Output:
    """Prints lines and replaces secrets in them."""

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = secrets

    def clean(self, text: str) -> str:
        return Redactor(self.secrets).clean(text)

    def say(self, line: str) -> None:
        print(self.clean(line), flush=True)


def _run(work: Callable[[_Output], None]) -> int:
    output = _Output([environment.given().get(_API_KEY, "")])
    try:
        work(output)
    except WorkerError as error:
        print(f"worker-gguf: {output.clean(error.message)}", file=sys.stderr)
        return 2 if isinstance(error, ManifestError) else 1
    except KeyboardInterrupt:
        print("worker-gguf: stopped. Finished steps are kept; the same command continues from there.", file=sys.stderr)
        return 130
    return 0


def _deploy(arguments: argparse.Namespace, clock: Clock, output: _Output) -> None:
    manifest = read_manifest(Path(arguments.file), environment.given(), image=arguments.image)
    output.secrets += [value.text for value in manifest.env.values() if value.is_secret]
    with _connect(arguments, clock) as (channel, api):
        existing = find(api, manifest)
        plan = make_plan(manifest, existing)
        for line in describe(plan, manifest):
            output.say(line)
        if arguments.dry_run:
            output.say("Nothing would change." if plan.changes_nothing else "Dry run: nothing was changed.")
            return
        if plan.replaces and not arguments.replace:
            raise DeploymentError(
                "The plan deletes the endpoint and creates it again: its address changes and running requests are "
                "aborted. To do that, run the command again with --replace."
            )
        output.say("")
        endpoint = carry_out(api, manifest, existing, plan, output.say)
        address = address_of(endpoint, manifest.mode)
        if not arguments.no_wait:
            output.say(f"\nWaiting up to {arguments.wait_s:g} s for the first answer of {address.openai}:")
            Wait(channel, clock, output.say, arguments.wait_s).first_answer(address)
        output.say(f"\n{curl(address)}")


def _destroy(arguments: argparse.Namespace, clock: Clock, output: _Output, ask: Callable[[str], str] | None) -> None:
    names = read_names(Path(arguments.file))
    with _connect(arguments, clock) as (_, api):
        objects = find(api, names).objects()
        volume = None if arguments.volume else objects.pop("volume", None)
        for kind, item in objects.items():
            output.say(f"- {kind} {item.get('name')} ({item['id']}): {CONSEQUENCES[kind]}")
        if volume:
            output.say(f"= volume {volume.get('name')} ({volume['id']}): kept and billed. --volume removes it too")
        if not objects:
            output.say(f"Nothing named {names.name} exists.")
            return
        if not arguments.yes:
            _confirm(ask)
        remove(api, objects, output.say)


@contextmanager
def _connect(arguments: argparse.Namespace, clock: Clock) -> Iterator[tuple[Channel, RunpodApi]]:
    variables = environment.given()
    key = variables.get(_API_KEY, "")
    if not key or not key.isascii() or not key.isprintable():
        fault = "contains characters that no key has" if key else "is not set"
        raise DeploymentError(
            f"RUNPOD_API_KEY {fault}. Create a key with write access in RunPod's console (Settings, API keys) and "
            "export it."
        )
    with Channel(key) as channel:
        yield channel, RunpodApi(channel, arguments.api_url or variables.get("runpod_rest_url") or DEFAULT_URL, clock)


def _duration(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds greater than 0")
    return seconds


def _confirm(ask: Callable[[str], str] | None) -> None:
    if ask is None and not sys.stdin.isatty():
        raise DeploymentError("There is no terminal for the confirmation. Run the command again with --yes.")
    if (ask or input)("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise DeploymentError("Nothing was removed.")
