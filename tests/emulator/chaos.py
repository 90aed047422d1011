"""Loses workers under load and counts what became of the jobs: `make chaos`, or `python -m tests.emulator.chaos`.

Real workers on the embedded model take jobs from the stand-in while they are killed, told to drain and poisoned, while
jobs are cancelled and expire, and while the platform is away in the middle of streams. Every job must end exactly once,
and every answer must be the published one.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import emulator
from emulator.jobs import Job
from emulator.workers import Worker, Workers
from tests.emulator.odd_worker import POISON
from tests.emulator.tally import Sent, Tally, answer_of, is_envelope
from worker_gguf.embedded import Prompt, published_prompts

COMMAND = (sys.executable, "-m", "tests.emulator.odd_worker")
DRAIN_TIMEOUT_S = 10
LEAVE_S = DRAIN_TIMEOUT_S + 20.0
"""A drain, and the end of the process on a machine whose few cores others use, too."""
ENVIRONMENT = {
    "MODEL": "embedded",
    "N_PARALLEL": "4",
    "N_CTX": "1024",
    "N_THREADS": "1",
    "LOG_LEVEL": "info",
    "DRAIN_TIMEOUT_S": str(DRAIN_TIMEOUT_S),
}
KINDS = {"whole": 40, "streamed": 38, "cancelled": 9, "expiring": 5, "overlong": 3, "bad": 5}
BAD_INPUTS: tuple[object, ...] = (None, [], "text", {}, {"messages": "no"}, {"messages": [], "top_p": "high"})


@dataclass(frozen=True, slots=True)
class Plan:
    n_jobs: int
    n_workers: int
    n_poisoned: int
    outage_s: float
    kill_every_s: float
    seed: int
    most_harm: int = 10**6
    max_tries: int = 3
    limit_s: float = 1200.0
    most_open: int = 60


class Chaos:
    def __init__(self, plan: Plan, platform: emulator.RunningEmulator, workers: Workers, client: httpx.Client) -> None:
        self.plan = plan
        self.platform = platform
        self.workers = workers
        self.chance = random.Random(plan.seed)
        self.tally = Tally()
        self.sent: dict[str, Sent] = {}
        self.ended: Counter[str] = Counter()
        self.prompts = [prompt for prompt in published_prompts() if not prompt.tools]
        self.longest = max(self.prompts, key=lambda prompt: prompt.max_tokens)
        self.client = client
        self.leaving: dict[int, tuple[Worker, float]] = {}
        self.poison_at = set(self.chance.sample(range(plan.n_jobs), plan.n_poisoned))
        platform.board.listeners.append(self.note)

    def note(self, job: Job) -> None:
        """Called on the platform's loop."""
        if job.is_over:
            self.ended[job.id] += 1

    # --- clients --------------------------------------------------------------------------------------------------

    def submit(self) -> None:
        if len(self.sent) in self.poison_at:
            self.send(Sent("poisoned", None), {"messages": [{"role": "user", "content": POISON}]})
            return
        kind = self.chance.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "bad":
            self.send(Sent(kind, None), self.chance.choice(BAD_INPUTS))
            return
        prompt = self.longest if kind == "overlong" else self.chance.choice(self.prompts)
        sent = Sent(kind, prompt)
        if kind == "cancelled":
            sent.cancel_at_s = time.monotonic() + self.chance.expovariate(1.0)
        policy = {"expiring": {"ttl": 1000}, "overlong": {"executionTimeout": 100}}.get(kind)
        self.send(sent, chat(prompt, stream=kind == "streamed" or self.chance.random() < 0.3), policy)

    def send(self, sent: Sent, given: object, policy: object = None) -> str:
        body = {"input": given} | ({"policy": policy} if policy else {})
        job_id: str = self.client.post("/run", json=body).json()["id"]
        self.sent[job_id] = sent
        return job_id

    def cancel_what_is_due(self) -> None:
        now_s = time.monotonic()
        for job_id, sent in self.sent.items():
            if sent.cancel_at_s is not None and sent.cancel_at_s < now_s:
                sent.cancel_at_s = None
                self.client.post(f"/cancel/{job_id}")

    @property
    def n_open(self) -> int:
        return len(self.sent) - len(self.ended)

    # --- the course of it -----------------------------------------------------------------------------------------

    def run(self) -> Tally:
        begun_s = time.monotonic()
        self.workers.start(self.plan.n_workers)
        next_deed_s = begun_s + 3 + self.plan.kill_every_s
        has_been_away = not self.plan.outage_s
        while len(self.sent) < self.plan.n_jobs or self.n_open:
            if time.monotonic() - begun_s > self.plan.limit_s:
                self.tally.faults.append(f"{self.n_open} jobs are still open after {self.plan.limit_s:.0f} s")
                break
            while len(self.sent) < self.plan.n_jobs and self.n_open < self.plan.most_open:
                self.submit()
            self.cancel_what_is_due()
            if not has_been_away and len(self.sent) >= self.plan.n_jobs // 2:
                has_been_away = True
                self.be_away()
            if time.monotonic() >= next_deed_s:
                self.do_harm()
                next_deed_s = time.monotonic() + self.chance.expovariate(1 / self.plan.kill_every_s)
            self.watch()
            self.client.get("/health")  # whoever looks makes the platform's clock go on
            time.sleep(0.02)
        self.check_slots()
        self.workers.stop(LEAVE_S)
        self.tally.seconds = time.monotonic() - begun_s
        self.count()
        return self.tally

    def do_harm(self) -> None:
        """Kill a worker or tell it to leave: one that works, and now and then one that only starts."""
        alive = [worker for place, worker in self.workers.running.items() if place not in self.leaving]
        ready = [worker for worker in alive if worker.id in self.platform.pings()]
        n_done = self.tally.deeds["SIGKILL"] + self.tally.deeds["SIGTERM"]
        choice = alive if self.chance.random() < 0.2 and n_done > 1 else ready
        if not choice or n_done >= self.plan.most_harm:
            return
        victim = self.chance.choice(choice)
        if n_done == 1 or (n_done > 1 and self.chance.random() < 0.6):
            victim.process.kill()
            self.tally.deeds["SIGKILL"] += 1
        else:
            victim.process.send_signal(signal.SIGTERM)
            self.leaving[victim.place] = (victim, time.monotonic())
            self.tally.deeds["SIGTERM"] += 1

    def watch(self) -> None:
        """See that those who were told to leave do, and start again who has ended."""
        for place, (worker, asked_s) in list(self.leaving.items()):
            code, waited_s = worker.process.poll(), time.monotonic() - asked_s
            if code is None and waited_s < LEAVE_S:
                continue
            del self.leaving[place]
            # A poisoned job that was waiting there, or a signal in the first moments of the process.
            if code not in (0, -signal.SIGKILL, -signal.SIGTERM):
                self.tally.faults.append(
                    f"{worker.id} left with {code} after SIGTERM, {waited_s:.1f} s:\n{worker.last_lines()}"
                )
            if code is None:
                worker.process.kill()
                worker.process.wait()
        self.workers.check()

    def be_away(self) -> None:
        """Make the platform unreachable while streams run."""
        prompt = self.longest
        ids = [self.send(Sent("streamed", prompt), chat(prompt, stream=True)) for _ in range(20)]
        self.poison_at = {at + len(ids) for at in self.poison_at}
        while self.plan.n_workers and not any(self.status(job_id)["status"] == "IN_PROGRESS" for job_id in ids):
            self.watch()
            time.sleep(0.02)
        self.platform.go_away()
        self.tally.deeds[f"outage of {self.plan.outage_s:.0f} s"] += 1
        back_s = time.monotonic() + self.plan.outage_s
        while time.monotonic() < back_s:
            self.watch()
            time.sleep(0.1)
        self.platform.come_back()

    def status(self, job_id: str) -> dict[str, Any]:
        said: dict[str, Any] = self.client.get(f"/status/{job_id}").json()
        return said

    # --- what became of it ----------------------------------------------------------------------------------------

    def check_slots(self) -> None:
        """At the end nothing runs, so no living worker may have a busy slot."""
        deadline_s = time.monotonic() + 30
        for worker in list(self.workers.running.values()):
            said: dict[str, Any] = {}
            while time.monotonic() < deadline_s and worker.process.poll() is None:
                with suppress(httpx.HTTPError, ValueError):
                    said = httpx.get(f"http://127.0.0.1:{worker.port}/health", trust_env=False).json()
                if "slots" in said and not said["slots"]["busy"] and not said["queue"]["waiting"]:
                    self.tally.deeds["workers without a leak"] += 1
                    break
                time.sleep(0.1)
            else:
                self.tally.faults.append(f"{worker.id} has busy slots at the end, or ended: {said.get('slots')}")

    def count(self) -> None:
        tally = self.tally
        for job_id, sent in self.sent.items():
            tally.jobs += 1
            response = self.client.get(f"/status/{job_id}")
            said: dict[str, Any] = response.json()
            status = said.get("status", "GONE")
            tally.ends[status] += 1
            if self.ended[job_id] == 0 or status in ("GONE", "IN_QUEUE", "IN_PROGRESS"):
                tally.lost.append(job_id)
            elif self.ended[job_id] > 1:
                tally.twice.append(job_id)
            elif fault := self.fault_of(job_id, sent, said):
                tally.faults.append(f"{sent.kind} job {job_id}: {fault}")

    def fault_of(self, job_id: str, sent: Sent, said: dict[str, Any]) -> str | None:
        status, error = said["status"], str(said.get("error", ""))
        if status == "FAILED" and "workers took the job" in error:
            self.tally.deeds[f"{sent.kind} jobs failed after {self.plan.max_tries} workers"] += 1
            return None
        if sent.kind in ("poisoned", "bad"):
            return None if status == "FAILED" and is_envelope(error) else f"is {status} with {error!r}"
        allowed = {"cancelled": "CANCELLED", "expiring": "TIMED_OUT", "overlong": "TIMED_OUT"}.get(sent.kind)
        if status == "COMPLETED":
            assert sent.prompt is not None
            self.tally.right += 1
            text = answer_of(said["output"])
            return None if text == sent.prompt.expected else f"{sent.prompt.name} was answered with {text!r}"
        return None if status == allowed else f"is {status} with {error!r}"


def chat(prompt: Prompt, *, stream: bool) -> dict[str, object]:
    body = {"messages": list(prompt.messages), "temperature": 0, "max_tokens": prompt.max_tokens, "stream": stream}
    return {"openai_route": "/v1/chat/completions", "openai_input": body}


def chaos(plan: Plan, folder: Path, *, is_loud: bool = False) -> Tally:
    # 5 s are long enough for a ping on a machine whose cores all compute.
    rules = emulator.Rules(
        hold_s=1.0, lease_s=5.0, min_ttl_s=0.1, min_execution_timeout_s=0.05, max_tries=plan.max_tries
    )
    with emulator.start(rules=rules) as platform:

        def say(line: str) -> None:
            if is_loud:
                print(f"  {line}", file=sys.stderr, flush=True)

        workers = Workers(platform, ENVIRONMENT, logs=folder, say=say, command=COMMAND)
        try:
            with httpx.Client(base_url=platform.endpoint_url, trust_env=False, timeout=30) as client:
                return Chaos(plan, platform, workers, client).run()
        finally:
            workers.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--poisoned", type=int, default=5)
    parser.add_argument("--outage-s", type=float, default=60.0)
    parser.add_argument("--kill-every-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"  seed {seed}", file=sys.stderr)
    plan = Plan(args.jobs, args.workers, args.poisoned, args.outage_s, args.kill_every_s, seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        tally = chaos(plan, Path(name), is_loud=True)
    print(tally)
    return int(bool(tally.lost or tally.twice or tally.faults))


if __name__ == "__main__":
    sys.exit(main())
