"""`worker-gguf deploy` and `destroy`: from one deploy.yaml to an endpoint on RunPod that answers, and back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker_gguf.deployment.api import RunpodApi
    from worker_gguf.deployment.channel import Channel, Clock
    from worker_gguf.deployment.manifest import Manifest
    from worker_gguf.deployment.wanted import Body

    Say = Callable[[str], None]

__all__ = ["deploy", "destroy", "main", "parser"]

_WAIT_S = 1200.0
_API_KEY = "runpod_api_key"


def main(words: Sequence[str]) -> int:
    """Run `deploy ...` or `destroy ...`; the exit code."""
    arguments = parser().parse_args(words)
    return deploy(arguments) if arguments.command == "deploy" else destroy(arguments)


def parser() -> argparse.ArgumentParser:
    """The arguments of both commands, which `worker-gguf` only names."""
    made = argparse.ArgumentParser("worker-gguf")
    commands = made.add_subparsers(dest="command", required=True)
    _add_deploy(commands.add_parser("deploy", description="Create or update an endpoint on RunPod from one file."))
    _add_destroy(commands.add_parser("destroy", description="Remove what deploy made from the same file."))
    return made


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument("--image", help="over image: for a pipeline that has just built one")
    parser.add_argument(
        "--replace", action="store_true", help="allow a plan that deletes the endpoint and makes it anew"
    )
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the first answer")
    parser.add_argument(
        "--wait-s", type=_duration, default=_WAIT_S, help=f"how long to wait for it (default: {_WAIT_S:g})"
    )


def _add_destroy(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--volume", action="store_true", help="the network volume too, with the models on it")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def deploy(arguments: argparse.Namespace, *, clock: Clock | None = None) -> int:
    """Create or change what differs, wait for the first answer; 0, 1 when RunPod did not, 2 when the file is wrong."""

    def work(given: dict[str, str], say: Say, hide: Callable[[Manifest], None]) -> None:
        from pathlib import Path

        from worker_gguf.deployment.channel import Channel
        from worker_gguf.deployment.channel import Clock as RealClock
        from worker_gguf.deployment.reading import read_manifest

        manifest = read_manifest(Path(arguments.file), given, image=arguments.image)
        hide(manifest)
        with Channel(_key(given)) as channel:
            _deploy(arguments, manifest, channel, _api(arguments, given, channel, clock), clock or RealClock(), say)

    return _run(work)


def destroy(
    arguments: argparse.Namespace, *, clock: Clock | None = None, ask: Callable[[str], str] | None = None
) -> int:
    """Remove endpoint and template; `ask` answers for the user. Codes as deploy's, 1 also when the answer is no."""

    def work(given: dict[str, str], say: Say, hide: Callable[[Manifest], None]) -> None:
        from pathlib import Path

        from worker_gguf.deployment.channel import Channel
        from worker_gguf.deployment.destroy import removals, remove
        from worker_gguf.deployment.existing import find
        from worker_gguf.deployment.reading import read_names

        names = read_names(Path(arguments.file))
        with Channel(_key(given)) as channel:
            api = _api(arguments, given, channel, clock)
            existing = find(api, names)
            steps = removals(existing, with_volume=arguments.volume)
            for step in steps:
                say(f"- {step.line()}")
            if existing.volume and not arguments.volume:
                say(f"= volume {names.volume} ({existing.volume['id']}): stays, and is billed. --volume removes it too")
            if not steps:
                say(f"There is nothing named {names.deployment} to remove.")
                return
            if not arguments.yes:
                _confirm(ask)
            remove(api, steps, say)

    return _run(work)


def _deploy(
    arguments: argparse.Namespace, manifest: Manifest, channel: Channel, api: RunpodApi, clock: Clock, say: Say
) -> None:
    from worker_gguf.deployment.apply import carry_out
    from worker_gguf.deployment.describe import describe
    from worker_gguf.deployment.existing import find
    from worker_gguf.deployment.plan import make_plan
    from worker_gguf.errors import DeploymentError

    existing = find(api, manifest.names)
    plan = make_plan(manifest, existing)
    for line in describe(plan, manifest):
        say(line)
    if arguments.dry_run:
        say("Nothing would change." if plan.changes_nothing else "A dry run: nothing was changed.")
        return
    if plan.replaces and not arguments.replace:
        raise DeploymentError(
            "The plan deletes the endpoint and makes it anew: its address changes and running requests end. If that is "
            "meant, run the command again with --replace."
        )
    say("")
    endpoint = carry_out(api, manifest, existing, plan, say)
    _show(arguments, manifest, channel, endpoint, clock, say)


def _show(
    arguments: argparse.Namespace, manifest: Manifest, channel: Channel, endpoint: Body, clock: Clock, say: Say
) -> None:
    """Wait for the first answer unless --no-wait is set, and print how to call the endpoint."""
    from worker_gguf.deployment.address import QueueAddress, address_of, curl
    from worker_gguf.deployment.wait import Wait

    address = address_of(endpoint, manifest.mode)
    if not arguments.no_wait:
        say(f"\nWaiting for the first answer of {address.openai}, at most {arguments.wait_s:g} s:")
        wait = Wait(channel, clock, say, arguments.wait_s)
        if isinstance(address, QueueAddress):
            wait.queue(address)
        else:
            wait.balanced(address)
    say(f"\n{curl(address)}")


def _run(work: Callable[[dict[str, str], Say, Callable[[Manifest], None]], None]) -> int:
    """Give `work` the environment and a way to speak that cannot say a secret, and turn its errors into a line."""
    from worker_gguf import environment
    from worker_gguf.deployment.redactor import Redactor
    from worker_gguf.errors import ManifestError, WorkerError

    given = environment.given()
    secrets = [given[_API_KEY]] if _API_KEY in given else []
    redactor = Redactor(secrets)

    def hide(manifest: Manifest) -> None:
        nonlocal redactor
        redactor = Redactor([*secrets, *(value.text for value in manifest.env.values() if value.is_secret)])

    try:
        work(given, lambda line: print(redactor.clean(line), flush=True), hide)
    except WorkerError as error:
        print(f"worker-gguf: {redactor.clean(error.message)}", file=sys.stderr)
        return 2 if isinstance(error, ManifestError) else 1
    except KeyboardInterrupt:
        print("worker-gguf: stopped. Everything made so far stays; run the command again to continue.", file=sys.stderr)
        return 130
    return 0


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", default="deploy.yaml", metavar="FILE", help="default: deploy.yaml")
    parser.add_argument("--api-url", help="over RUNPOD_REST_URL; default: RunPod's own, https://api.runpod.io")


def _duration(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("seconds, more than 0")
    return seconds


def _api(arguments: argparse.Namespace, given: dict[str, str], channel: Channel, clock: Clock | None) -> RunpodApi:
    from worker_gguf.deployment.api import DEFAULT_URL, RunpodApi
    from worker_gguf.deployment.channel import Clock as RealClock

    url = arguments.api_url or given.get("runpod_rest_url") or DEFAULT_URL
    return RunpodApi(channel, url, clock or RealClock())


def _key(given: dict[str, str]) -> str:
    from worker_gguf.errors import DeploymentError

    key = given.get(_API_KEY, "")
    if not key or not key.isascii() or not key.isprintable():
        raise DeploymentError(
            "RUNPOD_API_KEY is not set to a key. Make one with write access in RunPod's console (Settings, API keys) "
            "and export it."
        )
    return key


def _confirm(ask: Callable[[str], str] | None) -> None:
    from worker_gguf.errors import DeploymentError

    if ask is None and not sys.stdin.isatty():
        raise DeploymentError(
            "The removal needs a confirmation, and this is not a terminal. Run the command again with --yes."
        )
    if (ask or input)("Remove them? [y/N] ").strip().lower() not in ("y", "yes"):
        raise DeploymentError("Nothing was removed.")
