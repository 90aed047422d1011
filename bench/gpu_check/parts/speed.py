"""The throughput of the worker, of llama-server if there is one, and of the bare library: runs `python -m bench`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

from bench.gpu_check.job import Job
from bench.gpu_check.outcome import Outcome
from bench.gpu_check.profile import Profile

__all__ = ["dense", "experts"]

_ENDING_S = 3.0


def measure(kind: str, job: Job, outcome: Outcome) -> None:
    """Keep what was measured when the time of the part is over. Servers that run then are ended with the part."""
    profile, name = job.profile, job.profile.models[kind]
    results = Path(job.work) / "bench"
    written = results / f"{name}.json"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench", "--model", str(job.model(kind)), "--rounds", "1"]
    command += ["--concurrency", ",".join(map(str, profile.concurrency)), "--waves", ",".join(map(str, profile.waves))]
    command += ["--name", name, "--results", str(results), "--cache", job.work]
    command += [word for name, value in profile.settings.items() for word in _setting(name, value)]
    if job.llama_server:
        command += ["--peer-name", "llama-server", "--peer-command", _peer(job.llama_server, profile)]
    why = "every request was answered"
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=job.budget_s - _ENDING_S, check=False)
    except subprocess.TimeoutExpired:
        why = f"the time of this part is over ({job.budget_s:.0f} s)"
    else:
        if done.returncode:
            why = f"python -m bench ended with exit code {done.returncode}; its last lines are above"
    record = json.loads(written.read_text()) if written.is_file() else {"figures": {}, "measured": {}}
    outcome.details = {key: record[key] for key in ("settings", "measured", "ping_p99_ms") if key in record}
    outcome.add({f"{name}_{figure}": value for figure, value in record["figures"].items()})
    missing = [str(c) for c in profile.concurrency if str(c) not in record["measured"]]
    found = f"{why}; not measured: {', '.join(missing)} requests at once" if missing else why
    outcome.check(name, not missing, found)


def _setting(name: str, value: str) -> tuple[str, ...]:
    """Return the arguments of the benchmark for a setting. Some count for the limit, too; it sets N_PARALLEL itself."""
    if name == "N_PARALLEL":
        return ()
    if name in ("N_GPU_LAYERS", "N_THREADS"):
        return f"--{name.lower().replace('_', '-')}", value
    return "--worker-env", f"{name}={value}"


def _peer(server: str, profile: Profile) -> str:
    """Return the command for llama-server, which takes its libraries beside it after those of the bundle."""
    folders = os.pathsep.join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(Path(server).parent)]))
    options = f"--host 127.0.0.1 --port {{port}} -np {{n_parallel}} -c {{n_ctx_total}} -ngl {profile.layers}"
    if n_threads := profile.settings.get("N_THREADS"):
        options += f" -t {n_threads}"
    return f"env LD_LIBRARY_PATH={shlex.quote(folders)} {shlex.quote(server)} -m {{model}} {options}"


dense, experts = partial(measure, "dense"), partial(measure, "experts")
